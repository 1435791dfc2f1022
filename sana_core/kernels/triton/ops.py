"""Makes PyTorch operations of functions that launch kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
OPTIONS = {"enable_fp_fusion": True}
"""Multiply and add in one instruction. Every launch says so: Triton 3.9 warns that 3.10 changes the default."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Runs a kernel.  options: its constants, num_warps, num_stages."""
    kernel[grid](*args, **options, **OPTIONS)


def operation(*, fake: Callable[..., Any], plain: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Registers a function as the operation `sana::<its name>`. Its first argument is a tensor.

    fake: makes the empty results. plain: the same function in plain PyTorch; gradients are those of `plain`, which
    the backward pass computes again. The dispatcher of PyTorch costs more time than the function, so it is passed by
    where nothing needs it.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def on_its_device(*args: P.args, **kwargs: P.kwargs) -> R:
            with torch.cuda.device_of(args[0]):  # Triton launches on the current device; no effect on the CPU
                return function(*args, **kwargs)

        schema = torch.library.infer_schema(function, mutates_args=())
        name = f"sana::{function.__name__}"
        op = torch.library.custom_op(name, on_its_device, mutates_args=(), schema=schema)
        op.register_fake(fake)
        op.register_autograd(functools.partial(_backward, plain), setup_context=_save_inputs)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling() or torch.is_grad_enabled() or _is_watched(args[0]):
                return op(*args, **kwargs)
            return on_its_device(*args, **kwargs)

        return call

    return register


def _is_watched(x: Any) -> bool:
    """Whether something sees the operations on x: a subclass of Tensor, such as a fake one, or a mode."""
    return type(x) is not Tensor or torch._C._len_torch_dispatch_stack() > 0


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.is_tensor = [isinstance(x, Tensor) for x in inputs]
    ctx.others = [x for x in inputs if not isinstance(x, Tensor)]
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


def _backward(plain: Callable[..., Any], ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
    # All tensors ask for gradients: a plain version may overwrite one that does not.
    inputs = [next(tensors).detach().requires_grad_() if tensor else next(others) for tensor in ctx.is_tensor]
    needed = [i for i, is_needed in enumerate(ctx.needs_input_grad) if is_needed]
    with torch.enable_grad():
        outputs = plain(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(needed, torch.autograd.grad(outputs, [inputs[i] for i in needed], gradients)):
        results[i] = gradient
    return tuple(results)
