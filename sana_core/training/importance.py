"""How much each block of a transformer does (SANA-1.5, arXiv:2501.18427, sec. 2.3): 1 - the cosine similarity of the
tokens before and after it, over pictures at several timesteps. Pruning removes the blocks that do least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.load import load_autoencoder
from ..device import pick_device
from ..errors import InputError
from ..pipeline.offload import on_device
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request
from ..precision import companion_dtype
from ..quantiser.calibration import STEPS, calibration_files, calibration_pipeline, draw_latents
from ..transformer.block import add
from ..transformer.model import SanaTransformer

SAMPLES = 32  # pictures of a data set that are looked at
ENDS = 2  # the first and the last block stay
Progress = Callable[[int, int], None]


class Importance:
    """The mean importance of the blocks of a transformer over all that runs within `listening`."""

    def __init__(self, transformer: SanaTransformer) -> None:
        self.transformer = transformer
        self._sums: list[Tensor | float] = [0.0] * transformer.config.depth
        self._counts = [0] * transformer.config.depth

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = [
            block.register_forward_hook(self._hear(index)) for index, block in enumerate(self.transformer.blocks)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self) -> list[float]:
        """By the number of the block. Raises InputError if one of them is not finite."""
        found = [float(total) / max(count, 1) for total, count in zip(self._sums, self._counts)]
        if not all(abs(value) < float("inf") for value in found):
            raise InputError("the tokens are not finite in a run over the samples: choose another device")
        return found

    def _hear(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        kernels = self.transformer.kernels

        def hear(block: nn.Module, args: Any, output: Any) -> None:
            before, after = add(kernels, args[0]).float(), add(kernels, output).float()
            self._sums[index] += (1 - F.cosine_similarity(before, after, dim=-1)).double().sum()
            self._counts[index] += before.shape[0] * before.shape[1]

        return hear


def check_depth(own: int, depth: int) -> None:
    """Raise InputError if a model of `own` blocks cannot be pruned to `depth`."""
    if own <= ENDS:
        raise InputError(f"the model has {own} blocks, and the first and the last stay: it cannot be pruned")
    if not ENDS <= depth < own:
        raise InputError(
            f"a depth of {depth}, but the model has {own} blocks, and the first and the last stay: give {ENDS} to "
            f"{own - 1}"
        )


def kept_blocks(importance: Sequence[float], depth: int) -> tuple[int, ...]:
    """The `depth` blocks that do most, in order; the first and the last are among them. Raises InputError."""
    own = len(importance)
    check_depth(own, depth)
    inner = sorted(range(1, own - 1), key=lambda index: -importance[index])
    return tuple(sorted([0, *inner[: depth - ENDS], own - 1]))


def importance_of_prompts(
    source: str | Path,
    requests: Sequence[Request],
    *,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """The importance of each block while the model draws. Arguments as in `quantiser.calibration.largest_inputs`.

    Raises CheckpointError, InputError.
    """
    files = calibration_files(Path(source), text_encoder, tokenizer)
    pipeline = calibration_pipeline(files, pick_device(device), variant, trained_precision)
    heard = Importance(pipeline.transformer)
    draw_latents(pipeline, requests, heard.listening, progress)
    return heard.values()


def importance_of_pictures(
    source: str | Path,
    data: str | Path,
    *,
    autoencoder: str | Path | None = None,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    samples: int | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """The importance of each block on noisy pictures of a data set, as in training.

    data: pictures with captions.  samples: how many of them are looked at, evenly spread; None: SAMPLES.  Raises
    CheckpointError, InputError.
    """
    from .data.read import read_data

    files, place = calibration_files(Path(source), text_encoder, tokenizer), pick_device(device)
    if autoencoder is None and not (Path(source) / "model_index.json").is_file():
        raise InputError("pictures need an autoencoder: name a DC-AE (--autoencoder), or measure with --prompts")
    examples, samples = read_data(data).examples, samples or SAMPLES
    chosen = [examples[index] for index in sorted({number * len(examples) // samples for number in range(samples)})]
    pipeline = calibration_pipeline(files, place, variant, trained_precision)
    dtype = companion_dtype(pipeline.transformer.scale_shift_table.dtype, place)
    home = "cpu" if pipeline.offload else place
    pipeline.autoencoder = load_autoencoder(autoencoder or files.autoencoder, device=home, dtype=dtype)
    heard = Importance(pipeline.transformer)
    for number, example in enumerate(chosen, 1):
        with heard.listening():
            denoise_picture(pipeline, example.load(), example.captions[0][0], number)
        if progress is not None:
            progress(number, len(chosen))
    return heard.values()


@torch.no_grad()
def denoise_picture(pipeline: SanaPipeline, picture: Any, caption: str, seed: int) -> None:
    """One prediction at each of STEPS noise levels, with the caption alone."""
    run = pipeline.resolve(Request(caption, steps=STEPS, seed=seed, guidance_scale=1.0, sampler="flow_euler"))
    latent, noise = pipeline.encode_image(picture, run), pipeline.start(run).noise
    texts = pipeline.encode_text(run)
    turn = on_device(pipeline.device, pipeline.transformer) if pipeline.offload else nullcontext()
    with turn:
        denoise = pipeline.denoiser(run, texts)
        for sigma in run.sigmas()[:-1].tolist():
            denoise(torch.lerp(latent, noise, sigma), sigma)
