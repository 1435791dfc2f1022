"""One switch for all that makes SANA faster, and one report of what is on.

    off     plain PyTorch operations, one after the other
    auto    Triton kernels and CUDA graphs where they run, one matrix product for q, k and v
    max     the blocks compiled by torch.compile besides, which takes some minutes at the first picture

Keys and values of a prompt are computed once in every mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from .kernels import choice
from .kernels.choice import FAST, Kernels, kernels_for
from .transformer import replay
from .transformer.model import SanaTransformer

__all__ = ["FAST", "fast_paths", "make_fast", "use_kernels"]


def make_fast(
    transformer: SanaTransformer,
    *others: nn.Module,
    fast: str,
    device: torch.device,
    stays: bool,
    fullgraph: bool = True,
) -> None:
    """Set up networks for the switch.

    others: networks of the same kit, such as the autoencoder.  device: where they run.  stays: the weights stay there
    from now on.  fullgraph: False where layers of a host may interrupt the compiled graph.  Raises InputError
    for another word than "off", "auto" and "max".
    """
    kernels = kernels_for(fast)
    for network in (transformer, *others):
        use_kernels(network, kernels)
    if fast != "off" and stays and device.type != "cpu":
        transformer.join_projections()
        for network in others:  # as their maps lie; safetensors does not save weights that lie so
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if fast == "max":
        choice.prepare(device)
        transformer.compile_blocks(fullgraph=fullgraph)


def use_kernels(network: nn.Module, kernels: Kernels) -> None:
    """Let all layers of a network call these operations."""
    for module in cast(Iterator[Any], network.modules()):
        own = vars(module)
        if "kernels" in own:
            module.kernels = kernels
        if "kit" in own:
            module.kit = replace(own["kit"], kernels=kernels)


def fast_paths(fast: str, device: torch.device, *, stays: bool = True, few_steps: bool = False) -> list[str]:
    """What runs with this switch on a device and what does not and why, a line each.

    stays: the weights stay on the device.  few_steps: the model draws in a few steps, as Sprint does.
    """
    if fast == "off":
        return ["all fast paths are off"]
    failed = [operation.name for operation in vars(choice.CHOSEN).values() if operation.off]
    moves = None if stays else "the weights move between CPU and GPU"
    few = "the model draws in a few steps" if few_steps else None
    small = f"up to {replay.MOST_TOKENS} tokens a picture, without ControlNet"
    return [
        _line("Triton kernels", choice.obstacle(device), f"without {', '.join(failed)}" if failed else ""),
        _line("CUDA graphs", replay.obstacle(device) or replay.Replay.off or moves or few, small),
        _line("compiled blocks", None if fast == "max" else "they need fast=max"),
    ]


def _line(name: str, obstacle: str | None, on: str = "") -> str:
    return f"{name}: off, {obstacle}" if obstacle else f"{name}: on" + f" ({on})" * bool(on)
