"""The candidates of one request, drawn by a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import InputError
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Resolved
from ..samplers.types import StepCallback
from .select import Drawn


def draw_candidates(
    pipeline: SanaPipeline, run: Resolved, callback: StepCallback | None = None
) -> Callable[[Sequence[int]], list[Drawn]]:
    """A function that draws the request once for each seed, all together, for `select`: pictures with their latents
    (32, h, w), float32, on the CPU.

    The prompt is encoded once. Each picture starts from the same noise as alone. Raises InputError for a request of
    several prompts or pictures, and for one that brings its own noise.
    """
    pictures = [len(given) for given in (run.image, run.mask, run.control_image) if given is not None]
    if len(run.prompt) > 1 or any(count > 1 for count in pictures):
        raise InputError("best of N draws one prompt at a time, from one picture: give a request for each")
    if run.latents is not None or run.step_noise is not None:
        raise InputError("best of N draws each candidate from its own noise: leave out latents and step_noise")
    texts = pipeline.encode_text(run)

    def draw(seeds: Sequence[int]) -> list[Drawn]:
        part = replace(run, seeds=tuple(seeds), batch_size=len(seeds))
        latents = pipeline.sample(part, texts, pipeline.start(part), callback)
        kept = [latent.clone() for latent in latents.cpu()]  # a view would keep the whole round
        return list(zip(pipeline.decode(latents), kept))

    return draw
