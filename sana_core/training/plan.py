"""What a training will take, counted before anything is loaded onto the card.

One step runs on tensors without values, in the shapes and number types of the real one, and every tensor that is alive
is counted (`live_memory.py`). The largest sum is what a caching allocator must hold at least; the context of CUDA and
the workspace of its libraries, some 0.5 GB, are not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..config import TransformerConfig
from ..latents import latent_size
from ..live_memory import LiveMemory, weight_bytes
from ..text.instruction import MAX_LENGTH
from .objective import FlowBatch, FlowObjective

DEVICE = "cpu"  # of tensors without values; autocast needs a device that it knows


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """In bytes. weights: of all networks, trained and frozen. peak: the most at any time of a step, weights included.
    trained: how many numbers are trained.
    """

    weights: int
    peak: int
    trained: int


def without_values(network: nn.Module) -> None:
    """Give a network of the meta device weights that count as real ones and hold nothing."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = nn.Parameter(torch.empty_like(parameter, device=DEVICE), requires_grad=parameter.requires_grad)
            module.register_parameter(name, empty)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=DEVICE))


def step_memory(
    build: Callable[[], FlowObjective],
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    *,
    width: int,
    height: int,
    at_once: int,
    states_dtype: torch.dtype,
    average: bool = False,
    control: bool = False,
    pieces: int = 2,
) -> StepMemory:
    """Count a step with the optimizer's state of the steps before it.

    build: makes the objective, called where tensors have no values. pieces: in how many a batch is computed; where
    there are several the gradients of one wait while the next is computed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective = build()
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        batch = empty_batch(objective.transformer.config, width, height, at_once, states_dtype, control=control)
        stepping = optimizer(trained)
        followers = sum(parameter.numel() * parameter.element_size() for parameter in trained) if average else 0
        weights = weight_bytes(objective)
        with LiveMemory(weights + followers) as memory:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            for _ in range(2):  # only the second has the state of all parameters from its beginning
                stepping.step()
            if pieces == 1:
                stepping.zero_grad()
            objective(batch).backward()
    return StepMemory(weights=weights, peak=memory.peak_bytes, trained=sum(p.numel() for p in trained))


def empty_batch(
    config: TransformerConfig, width: int, height: int, count: int, states_dtype: torch.dtype, *, control: bool = False
) -> FlowBatch:
    """A batch of the longest captions."""
    rows, columns = latent_size(width, height)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, *shape, dtype=dtype, device=DEVICE)

    latents = (config.latent_channels, rows, columns)
    return FlowBatch(
        latents=empty(*latents),
        noise=empty(*latents),
        time=empty(),
        states=empty(MAX_LENGTH, config.caption_channels, dtype=states_dtype),
        mask=empty(MAX_LENGTH, dtype=torch.bool),
        weights=empty(),
        control=empty(*latents) if control else None,
    )
