"""Stage 5: write the three files of the model in float16.

    python tools/nano/export.py WORK --out sana_core/nano

Takes the averaged weights of WORK/transformer.pt and, where the decoder was trained further, WORK/decoder.pt. Each file states its
configuration as JSON in its safetensors metadata under `config`; the transformer also how to sample it, under `sampling`.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sizes import AUTOENCODER, ROOT, SAMPLING, TEXT, TRANSFORMER
from torch import Tensor

log = logging.getLogger("nano")
LICENCE = "Trained on Noto Emoji (Apache-2.0, Google) and CLDR annotations (Unicode-3.0); see README.md and the licences beside this file."


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16 copies. Raises ValueError for a value that float16 cannot hold."""
    halves = {key: tensor.to(torch.float16).contiguous() for key, tensor in tensors.items()}
    if broken := [key for key, tensor in halves.items() if not tensor.isfinite().all()]:
        raise ValueError(f"not finite in float16: {', '.join(broken)}")
    return halves


def write(path: Path, tensors: dict[str, Tensor], config: Any, **more: Any) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    metadata = {"format": "pt", "license": LICENCE, "config": json.dumps(asdict(config))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata | {name: json.dumps(asdict(value)) for name, value in more.items()})
    temporary.chmod(0o644)  # safetensors writes files that only their owner reads
    temporary.rename(path)
    log.info("%s: %.2f MB, %.2f M values", path.name, path.stat().st_size / 1e6, sum(t.numel() for t in tensors.values()) / 1e6)


def export(work: Path, out: Path, guidance_scale: float, shift: float) -> None:
    decoder = work / "decoder.pt"
    autoencoder = torch.load(decoder if decoder.exists() else work / "autoencoder.pt")["model"]
    trained = torch.load(work / "transformer.pt")["average"]
    transformer = {key.removeprefix("transformer."): tensor for key, tensor in trained.items() if key.startswith("transformer.")}
    text = {key.removeprefix("text."): tensor for key, tensor in trained.items() if key.startswith("text.")}
    spiece = torch.frombuffer(bytearray((work / "tokenizer.model").read_bytes()), dtype=torch.uint8)
    sampling = replace(SAMPLING, guidance_scale=guidance_scale, shift=shift)
    write(out / "diffusion_models" / "sana_nano.safetensors", half(transformer), TRANSFORMER, sampling=sampling)
    write(out / "vae" / "sana_nano_vae.safetensors", half(autoencoder), AUTOENCODER)
    named = {f"model.{key}": tensor for key, tensor in half(text).items()}
    write(out / "text_encoders" / "sana_nano_text.safetensors", named | {"spiece_model": spiece}, TEXT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "sana_core" / "nano")
    parser.add_argument("--guidance-scale", type=float, default=SAMPLING.guidance_scale)
    parser.add_argument("--shift", type=float, default=SAMPLING.shift)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(args.work, args.out, args.guidance_scale, args.shift)


if __name__ == "__main__":
    main()
