"""The values of a request in their own types: a value of another type is an InputError that names it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..text.tokenizer import check_text


def text(name: str, value: Any) -> str:
    """A Unicode text."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {_found(value)}, expected a text")
    check_text(value, f"the {name.replace('_', ' ')}")
    return str(value)


def texts(name: str, value: Any) -> str | tuple[str, ...]:
    """A text, or several."""
    if isinstance(value, str):
        return text(name, value)
    if not isinstance(value, Iterable):
        raise InputError(f"{name} is {_found(value)}, expected a text or a list of texts")
    return tuple(text(name, item) for item in value)


def whole(name: str, value: Any) -> int:
    """A whole number: of Python, NumPy or a tensor without dimensions."""
    if isinstance(value, torch.Generator):
        raise InputError(f"{name} is a torch.Generator, expected a whole number: give its initial_seed()")
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {_found(value)}, expected a whole number") from None


def wholes(name: str, value: Any) -> tuple[int, ...]:
    """Several whole numbers."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Iterable)):
        raise InputError(f"{name} is {_found(value)}, expected a list of whole numbers")
    return tuple(whole(name, item) for item in value)


def number(name: str, value: Any) -> float:
    """A finite number: of Python, NumPy or a tensor without dimensions."""
    try:
        if isinstance(value, (bool, str, bytes)) or getattr(value, "shape", ()) != ():
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {_found(value)}, expected a number") from None
    if not math.isfinite(found):
        raise InputError(f"{name} is {found}, expected a finite number")
    return found


def blocks(name: str, value: Any) -> tuple[int, ...]:
    """Numbers of blocks of the transformer."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Iterable)):
        raise InputError(f"{name} is {_found(value)}, expected a list of block numbers such as [8]")
    return tuple(whole(name, item) for item in value)


def noise(name: str, value: Any) -> torch.Tensor:
    """Floating-point numbers in a tensor."""
    if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
        kind = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else _found(value)
        raise InputError(f"{name} is {kind}, expected a tensor of floating-point numbers")
    if value.is_meta or value.layout != torch.strided or not value.isfinite().all():
        raise InputError(f"{name} holds values that are no finite numbers, expected noise of unit variance")
    return value


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """One of the options."""
    if value not in options:
        raise InputError(f'{name}="{value!s:.80}", expected one of {", ".join(options)}')
    return value


def _found(value: Any) -> str:
    """A value in an error line: short, without control characters."""
    return f"{value!a:.80}" if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
