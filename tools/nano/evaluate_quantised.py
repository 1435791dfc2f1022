"""What quantising the transformer, or the text encoder, does to the pictures."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from sana_core.pipeline import SanaPipeline
from sana_core.quantiser.convert import quantise_file
from sana_core.quantiser.policy import FORMATS, GGUF

from .captions import Caption
from .evaluation import Evaluation
from .export import TEXT, TRANSFORMER
from .retrieval import ranks_by_kind

log = logging.getLogger("nano")
LEVELS = 255  # of a picture of 8 bits


def quantised(run: Evaluation, formats: tuple[str, ...] = FORMATS) -> dict:
    """Names, drawn with one network quantised and the other as it is, against the files as they are: the same prompts
    and seeds.

    Everything else stays as it is, in float32, so all differences come from the quantised layers.
    A text encoder is quantised with its token embedding, and not to GGUF, which is for transformers.
    """
    names = run.sets["names"]
    reference = _drawn(run, run.base, names)
    expected = _found(run, reference, names)
    report: dict = {"captions": len(names), "seeds": list(run.seeds), "as they are": _rates(expected)}
    for file, part in ((TRANSFORMER, "transformer"), (TEXT, "text encoder")):
        for form in formats:
            if file == TEXT and form in GGUF:
                continue
            with tempfile.TemporaryDirectory() as folder:
                images = _drawn(run, _pipeline(run, file, form, Path(folder)), names)
            found = _found(run, images, names)
            report[f"{part}, {form}"] = {
                **_rates(found),
                **_changes(expected, found),
                **picture_differences(images, reference),
            }
            log.info("%s, %s: %s", part, form, report[f"{part}, {form}"])
    return report


def picture_differences(images: Tensor, reference: Tensor) -> dict[str, float]:
    """Of pictures (B, 3, P, P) in -1..1: the mean absolute difference in levels of 8 bits, with its standard error over
    the pictures, and PSNR in dB over all pixels.
    """
    wrong = (images - reference) / 2
    mean = wrong.abs().mean(dim=(1, 2, 3)) * LEVELS
    return {
        "levels": mean.mean().item(),
        "levels, error": (mean.std() / len(mean) ** 0.5).item(),
        "psnr": (-10 * wrong.square().mean().log10()).item(),
    }


def _pipeline(run: Evaluation, file: str, form: str, folder: Path) -> SanaPipeline:
    """One network in this format, the others as they are."""
    target = folder / ("network.gguf" if form in GGUF else "network.safetensors")
    quantise_file(run.files / file, target, form, dtype=torch.float32)
    return run.pipeline(transformer=target) if file == TRANSFORMER else run.pipeline(text=target)


def _drawn(run: Evaluation, made: SanaPipeline, captions: list[Caption]) -> Tensor:
    """Every caption with every seed, one seed after the other."""
    return torch.cat([run.draw(made, [caption.text for caption in captions], seed) for seed in run.seeds])


def _found(run: Evaluation, images: Tensor, captions: list[Caption]) -> dict[str, Tensor]:
    """Is the right thing the nearest? By both descriptions, one bool a picture."""
    wanted = [caption.scene for caption in captions] * len(run.seeds)
    return {name: ranks < 1 for name, ranks in ranks_by_kind(run.gallery, images, wanted).items()}


def _rates(found: dict[str, Tensor]) -> dict[str, float]:
    return {f"{name} top-1": values.float().mean().item() for name, values in found.items()}


def _changes(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, int]:
    """Pictures that are found no longer, and such that are found now alone."""
    return {f"{name} lost": int((expected[name] & ~found[name]).sum()) for name in expected} | {
        f"{name} gained": int((found[name] & ~expected[name]).sum()) for name in expected
    }
