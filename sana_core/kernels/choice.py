"""Which implementation of an operation runs: the plain PyTorch one, or a Triton kernel where there is one for the GPU.

A network calls the operations of its `Kernels`. Those of `kernels_for("auto")` look at their tensors at each call. The
first call with shapes not seen before runs both implementations and compares them. A kernel that fails or disagrees is
not used again in this process, and the log says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from ..errors import InputError, shortened
from ..shortage import out_of_memory
from .gated_depthwise import gated_depthwise
from .linear_attention import attend, attention_state, linear_attention
from .modulation import gated_residual, gated_residual_norm, modulated_norm
from .rms_norm import rms_norm_2d

log = logging.getLogger("sana")
FAST = ("auto", "off", "max")
LEAST_CAPABILITY = (8, 0)  # GPUs with bfloat16 in their matrix units: RTX 30 and later, A100
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Relative difference up to which a kernel and its plain twin agree. Rounding makes a fifth of it at the most."""


@cache
def obstacle(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on a device, or None if they can."""
    if device.type != "cuda":
        return "they need an NVIDIA GPU"
    if torch.version.hip is not None:
        return "they were not written for AMD GPUs"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return "the GPU is older than the RTX 30 series"
    return None


AT_ONCE = 2**22  # numbers that are compared at once
ON_MAPS = (gated_depthwise, rms_norm_2d)  # (B, C, H, W); the others are on tokens, (B, N, C) or (B, N, heads, D)


class Operation:
    """One operation with a plain implementation and a Triton kernel, of the same name and arguments.

    off: why the kernel is not used in this process, if it failed.
    """

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain
        self.name: str = plain.__name__
        self.off: str | None = None
        self._checked: set[Hashable] = set()
        self._fits: dict[torch.device, bool] = {}  # a plain look-up is all that torch.compile has to trace

    @property
    def kernel(self) -> Callable[..., Any]:
        return _kernels(self.plain.__module__)[self.name]

    def __call__(self, *args: Any, **options: Any) -> Any:
        x: Tensor = args[0]
        if not self._takes(x, args):
            return self.plain(*args, **options)
        if torch.compiler.is_compiling() or isinstance(x, FakeTensor):
            return self.kernel(*args, **options)
        case = tuple((arg.shape, arg.dtype, arg.device) if isinstance(arg, Tensor) else arg for arg in args)
        if case in self._checked:
            return self.kernel(*args, **options)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():  # nothing can be compared now
            return self.plain(*args, **options)
        return self._compared(case, *args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Operation:
        return self  # copies of a network share what is known of a kernel

    def _takes(self, x: Tensor, args: tuple) -> bool:
        if self.off or x.dtype not in TOLERANCE:
            return False
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if {tensor.dtype for tensor in tensors} != {x.dtype} and self.plain is not attend:
            return False  # autocast mixes them; the state alone is float32
        if not all(_lies_right(tensor, 1 if self.plain in ON_MAPS else -1) for tensor in tensors):
            return False
        if not torch.compiler.is_compiling() and x.device not in self._fits:
            self.prepare(x.device)
        return self._fits.get(x.device, False)

    def prepare(self, device: torch.device) -> None:
        self._fits[device] = obstacle(device) is None

    def _compared(self, case: Hashable, *args: Any, **options: Any) -> Any:
        """The plain result; from now on the kernel for tensors of this case, if it gives the same."""
        try:
            found = tree_leaves(self.kernel(*args, **options))
        except Exception as error:  # no compiler on the machine, an unknown GPU, a fault of Triton's
            if out_of_memory(error):
                raise
            self._switch_off(f"{type(error).__name__}: {shortened(str(error), 200)}")
            return self.plain(*args, **options)
        expected = self.plain(*args, **options)
        error = max(relative_error(a, b) for a, b in zip(found, tree_leaves(expected), strict=True))
        if error <= TOLERANCE[args[0].dtype]:
            self._checked.add(case)
        else:
            self._switch_off(f"its result is {error:.1g} off at {tuple(args[0].shape)}, {args[0].dtype}")
        return expected

    def _switch_off(self, why: str) -> None:
        self.off = why
        log.warning("the Triton kernel %s is not used: %s. PyTorch's own operations run instead", self.name, why)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| over the finite numbers; infinite where one of the two is finite alone.

    In parts, so that next to no memory is needed.
    """
    difference = total = 0.0
    for a, b in zip(found.reshape(-1).split(AT_ONCE), expected.reshape(-1).split(AT_ONCE), strict=True):
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()):
            return float("inf")
        a, b = (torch.where(finite, part, 0.0).double() for part in (a, b))
        difference, total = difference + (a - b).square().sum().item(), total + b.square().sum().item()
    return (difference / max(total, 1e-60)) ** 0.5


def _lies_right(x: Tensor, channel: int) -> bool:
    """Do the channels of tokens or maps lie side by side, as the kernels read them?"""
    return x.ndim < 3 or x.shape[channel] == 1 or x.stride(channel) == 1


@cache
def _kernels(plain_module: str) -> dict[str, Any]:
    return vars(import_module(f"{__package__}.triton.{plain_module.rpartition('.')[2]}"))


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The operations of the networks that have more than one implementation; arguments as of the plain functions."""

    linear_attention: Callable[..., Tensor] = linear_attention
    attention_state: Callable[..., tuple[Tensor, Tensor]] = attention_state
    attend: Callable[..., Tensor] = attend
    modulated_norm: Callable[..., Tensor] = modulated_norm
    gated_residual: Callable[..., Tensor] = gated_residual
    gated_residual_norm: Callable[..., tuple[Tensor, Tensor]] = gated_residual_norm
    gated_depthwise: Callable[..., Tensor] = gated_depthwise
    rms_norm_2d: Callable[..., Tensor] = rms_norm_2d


PLAIN = Kernels()
CHOSEN = Kernels(**{name: Operation(plain) for name, plain in vars(PLAIN).items()})


def kernels_for(fast: str) -> Kernels:
    """fast: "off" for the plain operations alone, "auto" or "max" for Triton kernels where they run.

    Raises InputError for another word.
    """
    if fast not in FAST:
        raise InputError(f'fast="{fast}", expected one of {", ".join(FAST)}')
    return PLAIN if fast == "off" else CHOSEN


def prepare(device: torch.device) -> None:
    """Find out now what runs on a device: under torch.compile nothing can be found out."""
    for operation in vars(CHOSEN).values():
        operation.prepare(device)
