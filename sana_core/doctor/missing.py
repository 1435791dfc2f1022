"""What is still to get before SANA draws its first picture, and where to put it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import TextConfig
from ..presets import AUTOENCODERS, RELEASES, TEXT_ENCODER, PublishedFile
from .paths import shown
from .search import Found

FIRST = next(release for release in RELEASES if release.name == "Sana_1600M_1024px_BF16")
GEMMA_WIDTH = TextConfig().hidden_size
NEEDED: dict[str, PublishedFile] = {
    "transformer": FIRST,
    "text encoder": TEXT_ENCODER,
    "autoencoder": AUTOENCODERS[0],
}


def missing(found: Sequence[Found], models: Path | None) -> list[str]:
    """A line for each of the three parts that is not there. models: ComfyUI's folder of models, None without one."""
    parts = [part for model in found for part in model.parts if part.problem is None and not part.embedded]
    widths = {part.details["caption_channels"] for part in parts if part.kind == "transformer"} or {GEMMA_WIDTH}
    encoders = [part for part in parts if part.kind == "text encoder" and part.details["hidden_size"] in widths]
    there = {part.kind for part in (*encoders, *(part for part in parts if part.kind != "text encoder"))}
    lines = [_get(kind, file, models) for kind, file in NEEDED.items() if kind not in there]
    if encoders and not any(part.tokenizer for part in encoders):
        lines.append(
            "Gemma-2 is there, but its tokenizer is not: give tokenizer.model or tokenizer.json by --tokenizer, or get "
            f"{TEXT_ENCODER.file_name}, which has it inside: {TEXT_ENCODER.url}"
        )
    return lines


def _get(kind: str, file: PublishedFile, models: Path | None) -> str:
    place = f"save it as {file.local_name}" if models is None else shown(models / file.directory / file.local_name)
    name = "a transformer, such as" if kind == "transformer" else f"the {kind}"
    size = f" ({file.gigabytes} GB)" if file.gigabytes else ""
    return f"{name} {file.local_name}{size}: {file.url} -> {place}"
