"""Decoding 4096 x 4096 on a GPU: peak memory against its targets, and time against diffusers' tiled decode: `python
bench/decode_gpu.py`.

The published DC-AE with random weights, the same in both implementations, in bfloat16. First both must give the same
picture at a size that needs no tiles, and exact tiles the same as none. Times are paired: every variant runs once in
each round, in shuffled order, and is compared with diffusers' tiled decode of the same round. Diffusers' decode also
runs against itself, which shows what the noise is: a ratio counts as a difference only where its 10th percentile lies
above the 90th of that control. --smoke runs all of it at a tiny size on the CPU, to see that it runs; its numbers mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.meter import weight_bytes
from bench.networks import AUTOENCODERS, TINY_AUTOENCODER, diffusers_autoencoder
from sana_core.checkpoint.files import Checkpoint
from sana_core.checkpoint.load import build_autoencoder
from sana_core.config import AutoencoderConfig
from sana_core.geometry import DC_AE_F32

Decode = Callable[[Tensor], Tensor]
TARGETS = {
    (4096, 1024): 2.0e9,
    (4096, 512): 1.6e9,
    (2048, 512): 0.9e9,
}  # (picture, tile) in pixels -> bytes, decoder's weights included
REFERENCE, CONTROL = "diffusers, tiled", "diffusers, tiled, again"
SAME = {torch.bfloat16: 3e-2, torch.float32: 1e-4}  # largest root mean square of a difference, relative


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is run. Sizes in pixels; `untiled` is the picture on which results are compared."""

    config: AutoencoderConfig
    device: torch.device
    dtype: torch.dtype
    pixels: int
    untiled: int
    tiles: tuple[int, ...]
    rounds: int
    diffusers_tile: int = 512
    diffusers_stride: int = 448


GPU = Setting(
    config=AUTOENCODERS["DC-AE 1.0, 1.1"],
    device=torch.device("cuda"),
    dtype=torch.bfloat16,
    pixels=4096,
    untiled=1024,
    tiles=(1024, 512),
    rounds=11,
)
SMOKE = Setting(
    config=TINY_AUTOENCODER,
    device=torch.device("cpu"),
    dtype=torch.float32,
    pixels=256,
    untiled=256,
    tiles=(256, 128),
    rounds=3,
    diffusers_tile=128,
    diffusers_stride=96,
)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Reference's time over the variant's in the same round: above 1 the variant is faster."""

    variant: str
    milliseconds: float  # median
    median: float
    p10: float
    p90: float
    wins: int
    rounds: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny size on the CPU, only to see that it runs")
    parser.add_argument("--pixels", type=int, default=GPU.pixels, help="side of the picture (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=GPU.rounds)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args(argv)
    if not args.smoke and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA GPU here; --smoke runs a tiny size on the CPU")
    setting = SMOKE if args.smoke else replace(GPU, pixels=args.pixels, rounds=args.rounds)
    found = run(setting)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["passed"] else 1


@torch.no_grad()
def run(setting: Setting) -> dict[str, Any]:
    """Prints and returns everything; `passed`: the results agree and no target was missed."""
    say(where(setting))
    torch.manual_seed(0)
    theirs = diffusers_autoencoder(setting.config, setting.device, setting.dtype)
    ours = build_autoencoder(Checkpoint(theirs.state_dict(), "random weights"), setting.device, setting.dtype)
    weights = weight_bytes(ours.decoder)
    agreement = compare(setting, theirs, ours)
    theirs.enable_tiling(
        setting.diffusers_tile, setting.diffusers_tile, setting.diffusers_stride, setting.diffusers_stride
    )
    variants: dict[str, Decode] = {
        REFERENCE: lambda z: theirs.decode(z / setting.config.geometry.scaling_factor).sample
    }
    variants[CONTROL] = variants[REFERENCE]
    variants |= {f"sana_core, tiles of {tile}": partial(ours.decode, tile=tile) for tile in setting.tiles}
    latent = latents(setting, setting.pixels)
    peaks = (
        {}
        if setting.device.type == "cpu"
        else {name: weights + peak(decode, latent) for name, decode in variants.items()}
    )
    targets = {f"sana_core, tiles of {tile}": TARGETS.get((setting.pixels, tile)) for tile in setting.tiles}
    missed = [name for name, target in targets.items() if target and peaks.get(name, 0) > target]
    for name, bytes_ in peaks.items():
        target = targets.get(name)
        say(
            f"peak {name:28} {bytes_ / 1e9:6.2f} GB"
            + (f"   target {target / 1e9:.1f} GB: {'MISSED' if name in missed else 'met'}" if target else "")
        )
    ratios = paired(variants, latent, setting.rounds)
    control = next(ratio for ratio in ratios if ratio.variant == CONTROL)
    for ratio in ratios:
        say(sentence(ratio) + (verdict(ratio, control) if setting.device.type == "cuda" else ""))
    say(where(setting))
    passed = not missed and all(error <= SAME[setting.dtype] for error in agreement.values())
    times = [asdict(ratio) for ratio in ratios]
    return {
        "where": where(setting),
        "agreement": agreement,
        "peak_bytes": peaks,
        "missed": missed,
        "times": times,
        "passed": passed,
    }


def compare(setting: Setting, theirs: Any, ours: Any) -> dict[str, float]:
    """Differences over the root mean square, on a picture that needs no tiles."""
    latent = latents(setting, setting.untiled)
    whole, smallest = ours.decode(latent), min(setting.tiles)
    pairs = {
        "sana_core and diffusers, both without tiles": (
            whole,
            theirs.decode(latent / setting.config.geometry.scaling_factor).sample,
        ),
        f"sana_core in tiles of {smallest} and without": (ours.decode(latent, tile=smallest), whole),
    }
    errors = {name: difference(found, expected) for name, (found, expected) in pairs.items()}
    for name, error in errors.items():
        say(
            f"{name}: {error:.1e} of the root mean square apart at {setting.untiled} px"
            + ("" if error <= SAME[setting.dtype] else ", TOO FAR")
        )
    return errors


def difference(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of `expected`; infinite where a value is not finite."""
    error = ((found.float() - expected.float()).square().mean() / expected.float().square().mean()).sqrt().item()
    return error if error == error else float("inf")


def paired(variants: dict[str, Decode], latent: Tensor, rounds: int) -> list[Ratio]:
    """Times of all variants, one of each in every round after a warm-up."""
    for decode in variants.values():
        decode(latent)
    times: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(milliseconds(variants[name], latent))
    return [summary(name, times[name], times[REFERENCE]) for name in variants]


def milliseconds(decode: Decode, latent: Tensor) -> float:
    """On a GPU by its own events; on the CPU of the process, which other processes do not add to."""
    if not latent.is_cuda:
        start = time.process_time()
        decode(latent)
        return (time.process_time() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    decode(latent)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def summary(name: str, times: list[float], reference: list[float]) -> Ratio:
    ratios = torch.tensor([expected / found for found, expected in zip(times, reference)], dtype=torch.float64)
    p10, median, p90 = (ratios.quantile(fraction).item() for fraction in (0.1, 0.5, 0.9))
    typical = torch.tensor(times).median().item()
    wins = int((ratios > 1).sum())
    return Ratio(variant=name, milliseconds=typical, median=median, p10=p10, p90=p90, wins=wins, rounds=len(times))


def sentence(ratio: Ratio) -> str:
    spread = f"x{ratio.median:.3f} [{ratio.p10:.3f}, {ratio.p90:.3f}], faster in {ratio.wins} of {ratio.rounds} rounds"
    return f"time {ratio.variant:28} {ratio.milliseconds:9.1f} ms   {spread}"


def verdict(ratio: Ratio, control: Ratio) -> str:
    if ratio.variant in (REFERENCE, CONTROL):
        return ""
    return (
        "   faster"
        if ratio.p10 > control.p90
        else "   slower"
        if ratio.p90 < control.p10
        else "   no difference to be told"
    )


def peak(decode: Decode, latent: Tensor) -> int:
    """Most bytes that decoding holds beyond what is there before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    decode(latent)
    return torch.cuda.max_memory_allocated() - before


def latents(setting: Setting, pixels: int) -> Tensor:
    side = pixels // DC_AE_F32.downscale
    return torch.randn(1, 32, side, side, generator=torch.Generator().manual_seed(pixels)).to(
        setting.device, setting.dtype
    )


def where(setting: Setting) -> str:
    """The machine and its state; clocks and temperature are told before and after."""
    dtype = str(setting.dtype).removeprefix("torch.")
    about = f"{setting.pixels} x {setting.pixels} px, {dtype}, random weights, PyTorch {torch.__version__}"
    if setting.device.type == "cpu":
        return f"SMOKE TEST on the CPU with a tiny network: the program runs, its numbers mean nothing. {about}"
    state = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=clocks.sm,temperature.gpu,power.draw", "--format=csv,noheader"]
        state = f", {subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()}"
    return f"{torch.cuda.get_device_name()}{state}. {about}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
