"""Peak memory of SANA's networks at their published sizes, beside diffusers': `python bench/memory.py [--json FILE]`.

Without a GPU the bytes of live tensors are counted on the meta device (`sana_core/live_memory.py`), where nothing is
computed. With one, or with --device cuda, PyTorch's allocator is asked; weights are random. Exits with 1 if a count
is off by more than 10 % from the formulas of `sana_core/dcae/memory.py`, by which tiles are chosen; with --quantised,
which counts quantised networks instead (`quantised.py`), if one of them takes more than its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.networks import (
    AUTOENCODERS,
    autoencoder,
    diffusers_autoencoder,
    diffusers_transformer,
    randomized,
    transformer,
)
from bench.quantised import HEADER as QUANTISED_HEADER
from bench.quantised import count_all
from bench.steps import DTYPE, TOKENS, kept_step, own_step, zeros
from sana_core.config import POSITIONS, AutoencoderConfig, TextConfig, TransformerConfig
from sana_core.dcae.memory import decode_peak_bytes, encode_peak_bytes
from sana_core.geometry import DC_AE_F32
from sana_core.live_memory import LiveMemory, weight_bytes
from sana_core.presets import BASE_06, BASE_16
from sana_core.text.gemma import GemmaTextEncoder

PICTURES = (1024, 2048, 4096)
TILES = (None, 1024, 512)
TOKENS_SENT = 500  # to the text encoder: the instruction and a long prompt
TOLERANCE = 0.1
TRANSFORMERS = {"0.6B": BASE_06, "1.6B": BASE_16}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. Bytes; `weights` are those of the part of the network that runs; `formula` is None where there
    is none.
    """

    network: str
    task: str
    pixels: int
    how: str
    weights: int
    activations: int | None  # None: the GPU's memory did not suffice
    formula: int | None = None

    @property
    def off(self) -> float:
        """How far the measurement is from the formula."""
        return abs(self.activations / self.formula - 1.0) if self.activations and self.formula else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "meta", choices=("meta", "cuda"))
    parser.add_argument(
        "--pixels", type=int, nargs="+", default=PICTURES, help="sides of the square pictures (default: %(default)s)"
    )
    parser.add_argument("--quantised", action="store_true", help="count quantised networks, against limits")
    args = parser.parse_args(argv)
    if args.quantised:
        return tell_quantised()
    device = torch.device(args.device)
    sys.stdout.write(f"{obtained(device)}\n\n{HEADER}\n")
    rows = []
    for row in measure_all(device, args.pixels):
        rows.append(row)
        sys.stdout.write(f"{line(row)}\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(
            json.dumps({"obtained": obtained(device), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    wrong = [row for row in rows if device.type == "meta" and row.off > TOLERANCE]
    for row in wrong:
        sys.stdout.write(
            f"\n{row.network}, {row.task} {row.pixels}, {row.how}: {row.off:.0%} off the formula of "
            "sana_core/dcae/memory.py"
        )
    sys.stdout.write("\n" if wrong else "\nEvery formula holds within 10 %.\n" if device.type == "meta" else "")
    return 1 if wrong else 0


def tell_quantised() -> int:
    """Print the rows of `quantised.py`. Returns 1 if a limit is missed."""
    sys.stdout.write(f"\nQuantised; {obtained(torch.device('meta'))}\n{QUANTISED_HEADER}\n")
    missed = 0
    for counted in count_all():
        sys.stdout.write("\n".join([counted.line(), *counted.parts()]) + "\n")
        sys.stdout.flush()
        missed |= counted.missed
    sys.stdout.write("A limit is missed.\n" if missed else "Every limit holds.\n")
    return int(missed)


def measure_all(device: torch.device, pictures: Sequence[int]) -> Iterator[Row]:
    for name, config in AUTOENCODERS.items():
        yield from measure_autoencoder(name, config, device, pictures)
    for name, config in TRANSFORMERS.items():
        yield from measure_transformer(name, config, device, pictures)
    yield measure_text_encoder(device)


def measure_autoencoder(
    name: str, config: AutoencoderConfig, device: torch.device, pictures: Sequence[int]
) -> Iterator[Row]:
    """Decoding counts the picture, its result; encoding does not, as the picture is the caller's."""
    ours, theirs = autoencoder(config, device, DTYPE), diffusers_autoencoder(config, device, DTYPE)
    for task, pixels in product(
        ("decode",) if config.lite else ("decode", "encode"), pictures
    ):  # Lite's encoder is the full one
        part: nn.Module = ours.decoder if task == "decode" else ours.encoder
        formula = decode_peak_bytes if task == "decode" else encode_peak_bytes
        given = zeros(1, 32, pixels // DC_AE_F32.downscale, pixels // DC_AE_F32.downscale, device=device)
        given = given if task == "decode" else zeros(1, 3, pixels, pixels, device=device)
        row = Row(network=name, task=task, pixels=pixels, how="", weights=weight_bytes(part), activations=None)
        for how, switch in (("diffusers", theirs.disable_tiling), ("diffusers, tiles of 512", theirs.enable_tiling)):
            switch()
            yield replace(row, how=how, activations=peak(partial(getattr(theirs, task), given)))
        for tile in TILES:
            how = f"sana_core, tiles of {tile}" if tile else "sana_core"
            counted = formula(config, pixels, pixels, tile, DTYPE)
            yield replace(
                row, how=how, activations=peak(partial(getattr(ours, task), given, tile=tile)), formula=counted
            )


def measure_transformer(
    name: str, config: TransformerConfig, device: torch.device, pictures: Sequence[int]
) -> Iterator[Row]:
    """A step with guidance: the forward alone, and with the prompts' keys and values kept, as the pipeline and ComfyUI
    keep them.
    """
    for pixels in pictures:
        side = pixels // DC_AE_F32.downscale
        sized = replace(config, position=POSITIONS.get({2048: "2k", 4096: "4k"}.get(pixels, "1024")))
        theirs = diffusers_transformer(sized, side, device, DTYPE)
        row = Row(
            network=name, task="step", pixels=pixels, how="diffusers", weights=weight_bytes(theirs), activations=None
        )
        yield replace(row, activations=peak(partial(diffusers_step, theirs, side, device)))
        del theirs
        ours = transformer(sized, device, DTYPE)
        row = replace(row, how="sana_core", weights=weight_bytes(ours))
        yield replace(row, activations=peak(partial(own_step, ours, side, device)))
        yield replace(row, how="sana_core, prompts kept", activations=peak(partial(kept_step, ours, side, device)))


def diffusers_step(network: Any, side: int, device: torch.device) -> None:
    latent, text = zeros(2, 32, side, side, device=device), zeros(2, TOKENS, 2304, device=device)
    mask, time = torch.ones(2, TOKENS, dtype=torch.long, device=device), torch.full((2,), 500.0, device=device)
    network(
        hidden_states=latent, encoder_hidden_states=text, encoder_attention_mask=mask, timestep=time, return_dict=False
    )


def measure_text_encoder(device: torch.device) -> Row:
    encoder = GemmaTextEncoder(TextConfig()).to(DTYPE)
    if device.type == "cuda":
        encoder = randomized(encoder.to_empty(device=device))
    tokens = torch.zeros(1, TOKENS_SENT, dtype=torch.long, device=device)
    activations = peak(
        partial(encoder, tokens, tokens == 0)
    )  # without a mask transformers would look at values, which meta has none of
    how = f"sana_core, {TOKENS_SENT} tokens"
    return Row(
        network="Gemma-2-2B", task="encode", pixels=0, how=how, weights=weight_bytes(encoder), activations=activations
    )


@torch.no_grad()
def peak(run: Callable[[], Any]) -> int | None:
    """Most bytes that `run` holds at a time beyond what is there already. None: more than the GPU has."""
    if not torch.cuda.is_initialized():
        with LiveMemory() as meter:
            run()
        return meter.peak_bytes
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        run()
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() - before


def obtained(device: torch.device) -> str:
    common = f"PyTorch {torch.__version__}, bfloat16, batch 1, guidance as a batch of 2; 1 MB is 10^6 bytes"
    if device.type == "meta":
        return f"Bytes of live tensors, counted on the meta device. {common}."
    return f"torch.cuda.max_memory_allocated on {torch.cuda.get_device_name()}. {common}."


HEADER = "network         task   pixels  how                       weights MB  activations MB    sum GB  formula MB"


def line(row: Row) -> str:
    formula = "" if row.formula is None else f"{row.formula / 1e6:12.0f}"
    if row.activations is None:
        what = f"{row.network:15} {row.task:6} {row.pixels:6}  {row.how:25} {row.weights / 1e6:10.0f}"
        return f"{what}   out of memory{formula}"
    total = (row.weights + row.activations) / 1e9
    return (
        f"{row.network:15} {row.task:6} {row.pixels:6}  {row.how:25} {row.weights / 1e6:10.0f} "
        f"{row.activations / 1e6:15.0f} "
        f"{total:9.2f}{formula}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
