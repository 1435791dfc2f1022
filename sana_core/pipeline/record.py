"""What is recorded of how a picture was made: all that is needed to draw it again, and no folders of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..styles import NO_STYLE
from .request import Replaced, Request, Resolved


def picture_record(request: Request, run: Resolved, index: int) -> dict[str, Any]:
    """The settings of a picture. request: with file names for pictures, and the prompt without the words of its style.
    index: in its batch.
    """
    record: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt, "seed": run.seed}
    for name in ("steps", "guidance_scale", "shift", "sampler", "width", "height", "batch_size"):
        record[name] = getattr(run, name)
    record |= {"batch_index": index, "instruction": run.instruction if run.instruction is not None else "none"}
    if request.style not in (None, NO_STYLE):
        record["style"] = request.style
    if isinstance(request, Replaced):
        record["shield"] = "replaced"
    if run.negative_mask != "own":
        record["negative_mask"] = run.negative_mask
    if run.pag_scale > 0.0:
        record["pag_scale"] = run.pag_scale
    if request.pag_layers is not None:
        record["pag_layers"] = ",".join(map(str, request.pag_layers))
    if request.image is not None:
        record |= {"image": _name(request.image), "strength": run.strength}
    if request.mask is not None:
        record["mask"] = _name(request.mask)
    if request.control_image is not None:
        record |= {"control_image": _name(request.control_image), "control_scale": run.control_scale}
    return record


def _name(path: Any) -> str:
    return Path(path).name
