"""The optimizers of a training, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .came import BETAS, EPS, Came
from .came8bit import Came8bit

CAMES = {"came": Came, "came8bit": Came8bit}
OPTIMIZERS = (*CAMES, "adamw", "adamw8bit")
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), (1e-8,)


def build_optimizer(
    name: str,
    parameters: Iterable[Tensor | tuple[str, Tensor]],
    *,
    rate: float,
    weight_decay: float = 0.0,
    betas: Iterable[float] | None = None,
    eps: Iterable[float] | float | None = None,
) -> torch.optim.Optimizer:
    """An optimizer for parameters, or named ones.

    name: one of OPTIMIZERS. rate: the learning rate. betas: three numbers for CAME, two for AdamW. eps: two for CAME,
    one for AdamW. None: the usual ones. Raises InputError.
    """
    if name not in OPTIMIZERS:
        raise InputError(f'unknown optimizer "{name}", expected one of {", ".join(OPTIMIZERS)}')
    given = [item[1] if isinstance(item, tuple) else item for item in parameters]
    if not given:
        raise InputError("there is nothing to train: no parameter takes gradients")
    eps = (eps,) if isinstance(eps, (int, float)) else eps
    if name in CAMES:
        factors = _numbers("betas", betas, BETAS, name), _numbers("eps", eps, EPS, name)
        return CAMES[name](given, lr=rate, betas=factors[0], eps=factors[1], weight_decay=weight_decay)
    options: dict[str, Any] = {
        "lr": rate,
        "betas": _numbers("betas", betas, ADAM_BETAS, name),
        "eps": _numbers("eps", eps, ADAM_EPS, name)[0],
        "weight_decay": weight_decay,
    }
    if name == "adamw":  # one parameter after another: all at once takes their size once more on a GPU
        return torch.optim.AdamW(given, foreach=False, **options)
    return _adamw8bit(given, options)


def _adamw8bit(parameters: list[Tensor], options: dict[str, Any]) -> torch.optim.Optimizer:
    if any(parameter.device.type in ("cpu", "mps", "meta") for parameter in parameters):
        raise InputError("adamw8bit needs a GPU: choose came8bit or adamw")
    if any(hasattr(parameter, "to_local") for parameter in parameters):
        raise InputError("adamw8bit takes no weights that are sharded over processes: choose came8bit or adamw")
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise InputError("adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
    return AdamW8bit(parameters, **options)


def _numbers(what: str, given: Iterable[float] | None, usual: tuple[float, ...], name: str) -> Any:
    numbers = usual if given is None else tuple(given)
    if len(numbers) != len(usual):
        raise InputError(f"{name} takes {len(usual)} {what}, found {len(numbers)}: give {', '.join(map(str, usual))}")
    below = 1.0 if what == "betas" else float("inf")
    if any(not 0.0 <= number < below for number in numbers):
        raise InputError(
            f"{what} of {name} are {', '.join(map(str, numbers))}, expected numbers from 0, below {below:g}"
        )
    return numbers
