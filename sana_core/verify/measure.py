"""A whole picture on this machine: how long each part takes, and how much memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..fast import make_fast
from ..pictures.images import to_pil
from ..pipeline.load import load_pipeline
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request, Resolved
from .checks import Check, compared
from .counted import counted_decode, counted_steps, counted_text, weight_bytes
from .networks import PLAIN_OPERATIONS
from .setup import PROMPTS, SEED, Setup, Told

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One part of a picture. gigabytes: the most that its tensors took, with its weights; None if nothing tells.
    counted: what was counted for it.
    """

    what: str
    seconds: float
    gigabytes: float | None = None
    counted: float | None = None


@dataclass(kw_only=True)
class Drawn:
    """A picture, its latents, and what was measured. checks: whole pictures with fast paths and without."""

    picture: Image.Image
    latents: Tensor
    words: str
    measures: list[Measure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


def draw(setup: Setup, request: Request, told: Told) -> Drawn:
    """Load everything as `draw` does and draw one picture, warm on a GPU."""
    told(f"loading all networks{' (with --offload)' if setup.offload else ''}")
    started = time.perf_counter()
    pipeline = load(setup)
    loading = Measure(what="load", seconds=time.perf_counter() - started)
    run = pipeline.resolve(request)
    words = (
        f"{run.width}x{run.height}, {run.steps} steps, cfg {run.guidance_scale:g}, shift {run.shift:g}, {run.sampler}"
    )
    checks, warm = [], pipeline.device.type != "cpu"
    if warm and setup.fast != "off":
        told("the picture with plain operations")
        _switch(pipeline, "off")
        plain = pipeline(run, output="latent")
        _switch(pipeline, setup.fast)
        told("the picture, cold")
        latents = pipeline(run, output="latent")
        dtype = pipeline.transformer.scale_shift_table.dtype
        checks.append(compared(f"latents of the picture, {words}", PLAIN_OPERATIONS, dtype, latents.cpu(), plain.cpu()))
    elif warm:
        told("the picture, cold")
        pipeline(run, output="latent")
    told(f"the picture{', warm' if warm else ''}: {words}")
    latents, pixels, measures = _measured(pipeline, run)
    return Drawn(
        picture=to_pil(pixels)[0],
        latents=latents.cpu(),
        words=words,
        measures=[loading, *measures],
        checks=checks,
    )


def load(setup: Setup) -> SanaPipeline:
    files = setup.files
    named = {part: getattr(files, part) for part in ("transformer", "autoencoder", "text_encoder", "tokenizer")}
    pipeline = load_pipeline(
        {part: path for part, path in named.items() if path is not None},
        device=setup.device,
        dtype=setup.chosen,
        variant=setup.variant,
        trained_precision=setup.trained_precision,
        offload=setup.offload,
        fast=setup.fast,
    )
    pipeline.defaults = setup.sampling
    return pipeline


def request(width: int | None = None, height: int | None = None, steps: int | None = None) -> Request:
    return Request(PROMPTS[0], width=width, height=height, steps=steps, seed=SEED)


def _switch(pipeline: SanaPipeline, fast: str) -> None:
    stays = not pipeline.offload
    make_fast(pipeline.transformer, pipeline.autoencoder, fast=fast, device=pipeline.device, stays=stays)
    pipeline.fast = fast


def _measured(pipeline: SanaPipeline, run: Resolved) -> tuple[Tensor, Tensor, list[Measure]]:
    """Latents, pixels, and a measure of each turn."""
    size, device = (run.width, run.height), pipeline.device
    texts, text, text_peak = _timed(device, lambda: pipeline.encode_text(run))
    start = pipeline.start(run)
    latents, steps, steps_peak = _timed(device, lambda: pipeline.sample(run, texts, start))
    tile = pipeline.tile(latents, *size)
    pixels, decode, decode_peak = _timed(device, lambda: pipeline.decode(latents, pil=False))
    count = len(run.sigmas()) - 1
    measures = [
        Measure(
            what="text",
            seconds=text,
            gigabytes=_taken(pipeline, text_peak, pipeline.text_encoder),
            counted=counted_text(pipeline),
        ),
        Measure(
            what=f"one step (of {count})",
            seconds=steps / count,
            gigabytes=_taken(pipeline, steps_peak, pipeline.transformer),
            counted=counted_steps(pipeline, *size),
        ),
        Measure(
            what="decode" + (f" (tiles of {tile})" if tile else ""),
            seconds=decode,
            gigabytes=_taken(pipeline, decode_peak, pipeline.autoencoder.decoder),
            counted=counted_decode(pipeline, *size, tile),
        ),
        Measure(
            what="the whole picture",
            seconds=text + steps + decode,
            gigabytes=None if text_peak is None else max(text_peak[1], steps_peak[1], decode_peak[1]) / 1e9,  # pyright: ignore[reportOptionalSubscript]
        ),
    ]
    return latents, pixels, measures


def _timed(device: torch.device, work: Callable[[], Value]) -> tuple[Value, float, tuple[int, int] | None]:
    """The result, the seconds, and on CUDA the bytes of tensors before and at the peak."""
    before = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    started = time.perf_counter()
    found = work()
    if device.type != "cpu":
        _synchronize(device)
    seconds = time.perf_counter() - started
    return found, seconds, None if before is None else (before, torch.cuda.max_memory_allocated(device))


def _synchronize(device: torch.device) -> None:
    getattr(torch, device.type).synchronize()


def _taken(pipeline: SanaPipeline, peak: tuple[int, int] | None, network: Any) -> float | None:
    """What one network took at its peak: its weights, and all that was made beside what lay on the card before."""
    if peak is None:
        return None
    weights = 0 if pipeline.offload else weight_bytes(network)
    return (peak[1] - peak[0] + weights) / 1e9
