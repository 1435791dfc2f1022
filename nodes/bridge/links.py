"""Inputs that only another node can give. Over the API they may hold anything that JSON has, and the host lets it
through.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...sana_core.errors import InputError

JSON = (str, int, float, list, dict)


def check_links(**inputs: Any) -> None:
    """Raise InputError for a value that came from no node. None stands for an input that is left out."""
    for name, value in inputs.items():
        if value is not None and not LINKED.get(name, _is_object)(value):
            raise InputError(f"{name} is {value!r:.80}, expected the output of a node: connect one")


def _is_object(value: Any) -> bool:
    return not isinstance(value, JSON)


def _is_latent(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), Tensor)


def _is_conditioning(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in value)
        and all(isinstance(states, Tensor) and isinstance(options, dict) for states, options in value)
    )


LINKED = {"latent": _is_latent, "latents": _is_latent, "samples": _is_latent, "positive": _is_conditioning}
