"""Predictions replayed as CUDA graphs: the GPU gets all kernels of a forward at once. For small pictures sending them
one by one takes longer than running them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import shortened
from ..kernels.choice import TOLERANCE, relative_error
from ..kit import is_replaced
from ..shortage import out_of_memory
from .caption import Caption

log = logging.getLogger("sana")
MOST_TOKENS = 1024  # a sequence; beyond that kernels are longer than their launches
MOST_IN_ALL = 8 * MOST_TOKENS  # of all sequences: a recording keeps the memory of a step
MOST_GRAPHS = 2  # of one run: guidance and perturbed attention
SHORT = "there is not enough memory"
EAGER_CALLS = 2  # before a graph is recorded: kernels are chosen and prompts computed

Predict = Callable[..., Tensor]
Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], None], Tensor]]
"""Records a function on a device -> (what replays it, the tensor in which each replay leaves its result)."""


def capture(function: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Record the kernels of a function as a CUDA graph. Other threads of the process may use the GPU meanwhile."""
    with torch.cuda.device(device):  # the stream has to be one of this GPU, or nothing is recorded
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
            result = function()
    return graph.replay, result


def obstacle(device: torch.device) -> str | None:
    """Why predictions cannot be replayed on a device, or None if they can."""
    return None if device.type == "cuda" and torch.version.hip is None else "they need an NVIDIA GPU"


def is_heard(network: nn.Module) -> bool:
    """Does other code run inside the network? A replay would leave it out: hooks, and forwards that were replaced."""
    return any(layer._forward_hooks or layer._forward_pre_hooks or is_replaced(layer) for layer in network.modules())


@dataclass
class _Case:
    """One kind of prediction: how often it was made, and its recording."""

    caption: Caption  # kept: it is known by its place in memory
    calls: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    replay: Callable[[], None] | None = None
    result: Tensor | None = None


class Replay:
    """`predict` of one run, with the same arguments and results; weights must stay where they are in the run.

    predict: (latent, timestep, caption, *, guidance, control, identity_attention) -> velocity, see `SanaTransformer`.
    The first replay is compared with the prediction itself; if the two differ nothing is replayed in this process.
    """

    off: str | None = None
    """Why nothing is replayed: in this process if it failed once, in a run that is short of memory."""

    def __init__(self, predict: Predict, capture: Capture = capture) -> None:
        self._predict, self._capture = predict, capture
        self._cases: dict[Hashable, _Case] = {}

    def __call__(
        self,
        latent: Tensor,
        timestep: Tensor,
        caption: Caption,
        *,
        guidance: Tensor | None = None,
        control: Sequence[Any] = (),
        identity_attention: Collection[int] = (),
    ) -> Tensor:
        given = [latent, timestep, *([] if guidance is None else [guidance])]

        def predict(*inputs: Tensor) -> Tensor:
            latent, timestep, *rest = inputs
            return self._predict(
                latent,
                timestep,
                caption,
                guidance=rest[0] if rest else None,
                control=control,
                identity_attention=identity_attention,
            )

        tokens = latent.shape[-2] * latent.shape[-1]
        large = tokens > MOST_TOKENS or len(latent) * tokens > MOST_IN_ALL
        if self.off or control or not caption.remember or large:
            return predict(*given)
        key = (caption.memory, tuple(identity_attention), *((tensor.shape, tensor.dtype) for tensor in given))
        if key not in self._cases and len(self._cases) >= MOST_GRAPHS:
            return predict(*given)
        case = self._cases.setdefault(key, _Case(caption))
        case.calls += 1
        if case.calls <= EAGER_CALLS:
            return predict(*given)
        if case.replay is None:
            return self._recorded(case, predict, given)
        for place, tensor in zip(case.inputs, given):
            place.copy_(tensor)
        case.replay()
        assert case.result is not None
        return case.result.clone()

    def _recorded(self, case: _Case, predict: Callable[..., Tensor], given: list[Tensor]) -> Tensor:
        """The prediction, and a recording of it for the next steps if the two agree."""
        expected = predict(*given)
        try:
            case.inputs = [tensor.clone() for tensor in given]
            case.replay, case.result = self._capture(lambda: predict(*case.inputs), expected.device)
            case.result.fill_(float("nan"))  # so that a recording of nothing shows
            case.replay()
            error = relative_error(case.result, expected)
        except (RuntimeError, MemoryError) as failure:
            if out_of_memory(failure) or (failure.__context__ and out_of_memory(failure.__context__)):
                self.off = SHORT  # of this run; a later one may have the memory
                self._cases.clear()
                log.warning("predictions of this run are not replayed as CUDA graphs: %s", SHORT)
            else:
                self._give_up(shortened(str(failure), 200))
        else:
            if not error <= TOLERANCE.get(expected.dtype, 1e-4):
                self._give_up(f"a replay is {error:.1g} off")
        return expected

    def _give_up(self, why: str) -> None:
        Replay.off = why
        self._cases.clear()
        log.warning("predictions are not replayed as CUDA graphs: %s. They run as without them", why)
