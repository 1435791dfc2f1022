"""Stage `export`: write the files of the model, and of the add-ons that have been trained, in float16.

    python -m tools.nano.export WORK --size 256

Takes the averaged weights. Each file states its configuration as JSON in its safetensors metadata under `config`; the
transformers also how they are sampled, under `sampling`. Writes WORK/export/, in folders named as ComfyUI's; `--out
sana_core/nano` puts them into the pack.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sana_core.training.lora_layers import attach_lora
from sana_core.training.state import read_state
from sana_core.whole_files import whole_file

from .command import Command, from_arguments, parser
from .sprint_student import sprint_config
from .stages import trained_autoencoder, trained_text_to_latent
from .train_lora import EXAMPLES
from .train_sprint import sprint_sampling

log = logging.getLogger("nano")
LICENCE = "Trained on Noto Emoji (Apache-2.0, Google) and CLDR annotations (Unicode-3.0)"
FLUENT = ", and Fluent Emoji (MIT, Microsoft)"
SEE = "; see README.md and the licences beside this file."
TRANSFORMER, SPRINT = "diffusion_models/sana_nano.safetensors", "diffusion_models/sana_nano_sprint.safetensors"
AUTOENCODER, TEXT = "vae/sana_nano_vae.safetensors", "text_encoders/sana_nano_text.safetensors"
CONTROLNET = "controlnet/sana_nano_controlnet.safetensors"


def lora_file(example: str) -> str:
    return f"loras/sana_nano_{example}.safetensors"


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16 copies. Raises ValueError for a value that float16 cannot hold."""
    halves = {key: tensor.detach().cpu().to(torch.float16).contiguous() for key, tensor in tensors.items()}
    if broken := [key for key, tensor in halves.items() if not tensor.isfinite().all()]:
        raise ValueError(f"not finite in float16: {', '.join(broken)}")
    return halves


class Exporter:
    """Writes files under one folder, each under a temporary name first: a reader never sees half a file."""

    def __init__(self, folder: Path, licence: str) -> None:
        self.folder, self.licence = folder, licence

    def write(self, name: str, tensors: dict[str, Tensor], **stated: Any) -> None:
        path = self.folder / name
        metadata = {"format": "pt", "license": self.licence} | {
            key: json.dumps(asdict(value)) for key, value in stated.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata)
            partial.chmod(0o644)  # safetensors writes files that only their owner reads
        log.info(
            "%s: %.2f MB, %.2f M values",
            name,
            path.stat().st_size / 1e6,
            sum(t.numel() for t in tensors.values()) / 1e6,
        )


def export(command: Command, folder: Path) -> None:
    """The base model, then whatever add-ons there are."""
    size, work = command.size, command.work
    to = Exporter(folder, LICENCE + FLUENT * ("fluent3d" in size.styles) + SEE)
    model = trained_text_to_latent(command)
    to.write(TRANSFORMER, half(model.transformer.state_dict()), config=size.transformer, sampling=size.sampling)
    to.write(AUTOENCODER, half(trained_autoencoder(command).state_dict()), config=size.autoencoder)
    spiece = torch.frombuffer(bytearray((work / "tokenizer.model").read_bytes()), dtype=torch.uint8)
    text = {f"model.{key}": tensor for key, tensor in half(model.text.model.state_dict()).items()}
    to.write(TEXT, text | {"spiece_model": spiece}, config=size.text)
    if (work / "sprint.pt").exists():
        student = half(read_state(work / "sprint.pt")["average"])
        to.write(SPRINT, student, config=sprint_config(size.transformer), sampling=sprint_sampling(size.sampling))
    if (work / "controlnet.pt").exists():
        to.write(CONTROLNET, half(read_state(work / "controlnet.pt")["average"]))
    lora = attach_lora(model.transformer, rank=size.lora_rank, seed=command.seed)
    for example in EXAMPLES:
        if (work / f"lora_{example}.pt").exists():
            lora.load_state_dict(read_state(work / f"lora_{example}.pt")["model"])
            to.write(lora_file(example), half(lora.tensors()))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, help="folder for the files; WORK/export where nothing is said")
    args = arguments.parse_args()
    export(from_arguments(args), args.out or args.work / "export")


if __name__ == "__main__":
    main()
