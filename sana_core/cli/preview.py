"""The option --preview: a file that shows the picture while it is drawn."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ..errors import InputError
from ..pictures.images import to_pil
from ..pictures.preview import PreviewFit, PreviewMap, read_map, synthetic_pictures
from ..pictures.saving import FORMATS
from ..pipeline.pipeline import SanaPipeline
from ..samplers.types import StepCallback
from ..sources import NANO_PREVIEW, is_embedded
from ..whole_files import explained, whole_file

log = logging.getLogger("sana")
LEARNT = 8  # synthetic pictures
SIDE = 256  # pixels


def check_preview(path: Path) -> None:
    """Raise InputError for a file that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--preview {path}: expected a file that ends with {', '.join(FORMATS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--preview {path}: there is no such folder, or it is one itself")


def preview_map(pipeline: SanaPipeline) -> PreviewMap:
    """The map of the pipeline's autoencoder: the embedded one's, or one that is fitted to pictures it encodes."""
    if is_embedded(pipeline.transformer.config):
        return read_map(NANO_PREVIEW)
    log.info("learning the colours of previews from this autoencoder")
    fit, size = PreviewFit(), replace(pipeline.defaults, width=SIDE, height=SIDE)
    for picture in synthetic_pictures(LEARNT, SIDE)[:, None]:
        fit.add(pipeline.encode_image(picture, size), picture * 2.0 - 1.0)
    found = fit.map()
    assert found is not None
    return found


def shown(path: Path, found: PreviewMap, others: StepCallback | None) -> StepCallback:
    """A sampler's callback that writes what it sees to `path` after each step, and calls `others`."""

    def show(*args) -> None:
        _, _, _, predicted = args
        write(path, to_pil(found.picture(predicted[:1]).mul(0.5).add(0.5).clamp(0.0, 1.0))[0])
        if others is not None:
            others(*args)

    return show


def write(path: Path, picture: Image.Image) -> None:
    """Replace the file in one go, so that a viewer never sees half a picture."""
    with explained(f"--preview {path}"), whole_file(path, lasting=False) as partial:
        picture.save(partial, FORMATS[path.suffix.lower()])
