"""The settings of an entry: each by its name and in its own type."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..errors import InputError
from ..pipeline.request import Request
from ..samplers.guidance import block_numbers
from ..text.tokenizer import check_text

PICTURES = ("image", "mask", "control_image")  # file names
TEXTS = ("prompt", "negative_prompt", "instruction", "negative_mask", "sampler", "pag_layers", "style", *PICTURES)
WHOLE = ("seed", "width", "height", "steps", "batch_size")
NUMBERS = ("guidance_scale", "shift", "pag_scale", "strength", "control_scale")
SETTINGS = (*TEXTS, *WHOLE, *NUMBERS)


def request_of(entry: object, where: str, common: Request) -> Request:
    """The request of a text, or of an object with "prompt" and any of SETTINGS, where it differs from `common`.

    null stands for a setting that is not given. where: names the entry in errors. Raises InputError.
    """
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise InputError(f'{where}: expected a text or an object with "prompt", found {shown(entry)}')
    values = {name: setting(name, value, where) for name, value in entry.items() if value is not None}
    if "prompt" not in values:
        raise InputError(f"{where}: prompt is null, expected a text")
    return common.changed(**values)


def setting(name: str, value: object, where: str) -> Any:
    """A setting in its own type. Raises InputError."""
    if name == "pag_layers" and isinstance(value, list):
        return [setting("steps", item, f"{where}: pag_layers") for item in value]
    if name in TEXTS:
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} is {shown(value)}, expected a text")
        check_text(value, f"{where}: {name}")
        return {"pag_layers": block_numbers, "instruction": _instruction}.get(name, str)(value)
    if name in WHOLE or name in NUMBERS:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if name in WHOLE and value == value // 1:  # other tools write 42.0
                return int(value)
            # JSON has NaN, Infinity and whole numbers of any length
            if name in NUMBERS and abs(value) <= sys.float_info.max:
                return value
        kind = "a whole number" if name in WHOLE else "a finite number"
        raise InputError(f"{where}: {name} is {shown(value)}, expected {kind}")
    raise InputError(f"{where}: unknown setting {shown(name)}, expected {', '.join(SETTINGS)}")


def shown(value: object) -> str:
    """A value in an error: as JSON, shortened."""
    return json.dumps(value, default=str)[:80]


def _instruction(text: str) -> str | None:
    return None if text == "none" else text
