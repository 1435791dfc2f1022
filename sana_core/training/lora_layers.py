"""Low-rank adapters (LoRA, arXiv:2106.09685, and DoRA, arXiv:2402.09353) that are trained beside frozen layers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError, listed
from ..quantised.layers import QuantisedLinear, replace_layer
from .borrowed import BorrowedLinear
from .networks import seeded

ATTENTION_QKV = ("to_q", "to_k", "to_v")  # what diffusers' DreamBooth script for SANA adapts
ATTENTION = (*ATTENTION_QKV, "to_out.0")
FEED_FORWARD = ("ff.conv_inverted", "ff.conv_point")  # 1x1 convolutions in diffusers, linear layers here
TARGETS = {"attention": ATTENTION, "qkv": ATTENTION_QKV, "all": (*ATTENTION, *FEED_FORWARD)}
PREFIX = "transformer."
Layer = nn.Linear | QuantisedLinear | BorrowedLinear


class Adapter(nn.Module):
    """x -> alpha / rank * lora_B(lora_A(x)); it begins at zero.

    lora_A begins as a normal distribution of deviation 1 / rank, PEFT's "gaussian", as in diffusers' training scripts.
    A DoRA has the lengths of the rows of the weight besides, see `AdaptedLinear`.
    """

    lora_magnitude_vector: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.lora_A = nn.Linear(in_features, rank, bias=False, dtype=torch.float32)
        self.lora_B = nn.Linear(rank, out_features, bias=False, dtype=torch.float32)
        self.register_parameter("lora_magnitude_vector", None)
        self.scale = alpha / rank
        nn.init.normal_(self.lora_A.weight, std=1 / rank)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))


class AdaptedLinear(nn.Module):
    """A frozen linear layer and its adapter, x -> W x + s B A x + bias.

    A DoRA sets the lengths of the rows: W' = m (W + s B A) / ||W + s B A||. The norm counts as a constant for the
    gradients (arXiv:2402.09353, sec. 4.3).
    """

    def __init__(self, base: Layer, adapter: Adapter) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, x: Tensor) -> Tensor:
        y, change = self.base(x), self.adapter(x)
        lengths = self.adapter.lora_magnitude_vector
        if lengths is not None:
            factor = lengths / row_lengths(self.base, self.adapter)
            product = y if self.base.bias is None else y - self.base.bias.to(y.dtype)
            change = (factor - 1) * product + factor * change
        return y + change.to(y.dtype)


@torch.no_grad()
def row_lengths(layer: Layer, adapter: Adapter) -> Tensor:
    """The lengths of the rows of a layer's weight with its adapter, float32, without gradient."""
    weight = (layer if isinstance(layer, nn.Linear) else layer.plain(torch.float32)).weight
    up, down = adapter.lora_B.weight.float(), adapter.lora_A.weight.float()
    with torch.autocast(weight.device.type, enabled=False):
        whole = torch.addmm(weight.float(), up, down, alpha=adapter.scale)
    return torch.linalg.vector_norm(whole, dim=1).clamp_min(torch.finfo(torch.float32).tiny)


class TrainedLora(nn.Module):
    """The adapters of one LoRA by the name of their layer. As a context manager it takes them off at the end."""

    def __init__(self, adapters: Mapping[str, Adapter], *, rank: int, alpha: float, targets: Sequence[str]) -> None:
        super().__init__()
        self.names = list(adapters)
        self.adapters = nn.ModuleList(adapters.values())
        self.rank, self.alpha, self.targets = rank, alpha, tuple(targets)
        self._network: weakref.ref[nn.Module] | None = None  # weak: a copy of the LoRA is none of the network
        self._learned: frozenset[str] = frozenset()

    def __enter__(self) -> TrainedLora:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @property
    def by_name(self) -> dict[str, Adapter]:
        return dict(zip(self.names, cast("list[Adapter]", list(self.adapters))))

    @property
    def dora(self) -> bool:
        return any(adapter.lora_magnitude_vector is not None for adapter in self.by_name.values())

    def attach(self, network: nn.Module) -> None:
        """Freeze a network and put the adapters beside its layers."""
        self._network = weakref.ref(network)
        self._learned = frozenset(name for name, parameter in network.named_parameters() if parameter.requires_grad)
        network.requires_grad_(False)
        for name, adapter in self.by_name.items():
            replace_layer(network, name, AdaptedLinear(cast(Layer, network.get_submodule(name)), adapter))

    def detach(self) -> None:
        """Take the adapters off: the network has its own layers again, and learns what it learned before."""
        network = self._network and self._network()
        self._network = None
        if network is None:
            return
        for name in self.names:
            replace_layer(network, name, cast(AdaptedLinear, network.get_submodule(name)).base)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self._learned)

    def tensors(self) -> dict[str, Tensor]:
        """What a LoRA file holds, in the dialect of diffusers and PEFT.

        `transformer.<layer>.lora_A.weight` (rank, in), `.lora_B.weight` (out, rank), and `.lora_magnitude_vector` (out)
        of a DoRA; (rank, in, 1, 1) and so on for layers that are convolutions in diffusers. alpha / rank is multiplied
        into lora_B, so that readers need no alpha.
        """
        found = {}
        for name, adapter in self.by_name.items():
            sizes = (1, 1) if ends_in(name, FEED_FORWARD) else ()
            down, up, lengths = adapter.lora_A.weight, adapter.scale * adapter.lora_B.weight, _lengths(adapter)
            found[f"{PREFIX}{name}.lora_A.weight"] = down.detach().reshape(*down.shape, *sizes)
            found[f"{PREFIX}{name}.lora_B.weight"] = up.detach().reshape(*up.shape, *sizes)
            if lengths is not None:
                shape = (1, -1, *sizes) if sizes else (-1,)
                found[f"{PREFIX}{name}.lora_magnitude_vector"] = lengths.reshape(shape)
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from tensors as `tensors` returns them.

        Raises CheckpointError, without any change, for those of a LoRA of other layers, of another rank or kind.
        """
        self._check(tensors)
        for name, adapter in self.by_name.items():
            key, down, up, lengths = f"{PREFIX}{name}", adapter.lora_A.weight, adapter.lora_B.weight, _lengths(adapter)
            down.copy_(tensors[f"{key}.lora_A.weight"].reshape(down.shape))
            up.copy_(tensors[f"{key}.lora_B.weight"].reshape(up.shape) / adapter.scale)
            if lengths is not None:
                lengths.copy_(tensors[f"{key}.lora_magnitude_vector"].reshape(lengths.shape))

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.tensors()
        if ranks := {len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_A.weight")} - {self.rank}:
            raise CheckpointError(f"the LoRA to go on from has rank {min(ranks)}, not {self.rank}: use its rank")
        if (dora := any(key.endswith(".lora_magnitude_vector") for key in tensors)) != self.dora:
            found, expected = ("a DoRA", "a LoRA") if dora else ("a LoRA", "a DoRA")
            raise CheckpointError(f"the LoRA to go on from is {found}, not {expected}: train the same kind")
        if missing := own.keys() - tensors.keys():
            named = listed(sorted(missing))
            raise CheckpointError(f"the LoRA to go on from lacks {named}: use its network and its layers")
        if further := tensors.keys() - own.keys():
            named = listed(sorted(further))
            raise CheckpointError(f"the LoRA to go on from has {named} besides: use its network and its layers")
        for key, tensor in own.items():
            found, expected = tuple(tensors[key].shape), tuple(tensor.shape)
            if tensors[key].squeeze().shape != tensor.squeeze().shape:  # matrices may come for convolutions
                raise CheckpointError(
                    f"the LoRA to go on from is of another network: {key} is {found} there, {expected} here: use its "
                    "network"
                )


def attach_lora(
    transformer: nn.Module,
    *,
    rank: int,
    seed: int,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    dora: bool = False,
    start: Mapping[str, Tensor] | None = None,
) -> TrainedLora:
    """Freeze `transformer` and put an adapter beside every linear layer whose name ends in one of `targets`.

    The layers may be quantised. The depthwise convolution of the feed-forward cannot be a target: it is grouped, and
    files and programs disagree about what the factors of grouped convolutions are.

    alpha: the adapters' strength is alpha / rank; None: the rank.  dora: train the lengths of the rows too.
    start: tensors to go on from, see `lora_file.load_trained`.

    The adapters are in the returned module in float32, where their layers are. Without autocast they compute in
    float32. `TrainedLora.detach` takes them off. Raises InputError for targets and numbers that cannot be used, and
    CheckpointError if `start` does not fit; then nothing has changed.
    """
    alpha = rank if alpha is None else alpha
    if rank < 1:
        raise InputError(f"rank {rank} of a LoRA: expected 1 or more")
    if not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha {alpha} of a LoRA: expected a number above 0")
    adapters: dict[str, Adapter] = {}
    with seeded(seed):
        for name, layer in _layers(transformer, targets).items():
            (rows, columns), device = _place(layer)
            if rank > (most := min(rows, columns)):
                raise InputError(f"rank {rank} of a LoRA: {name} is {rows} x {columns}, expected at most {most}")
            adapters[name] = Adapter(columns, rows, rank, alpha)
            if device.type != "cpu":
                adapters[name].to(device)
            if dora:
                adapters[name].lora_magnitude_vector = nn.Parameter(row_lengths(layer, adapters[name]))
    lora = TrainedLora(adapters, rank=rank, alpha=alpha, targets=targets)
    if start is not None:
        lora.load(start)
    lora.attach(transformer)
    return lora


def _layers(transformer: nn.Module, targets: Sequence[str]) -> dict[str, Layer]:
    """The linear layers whose names end in one of `targets`."""
    kinds = (nn.Linear, QuantisedLinear, BorrowedLinear)
    linear = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, kinds)}
    absent = [target for target in targets if not any(ends_in(name, (target,)) for name in linear)]
    if absent or not targets:
        raise InputError(f"no linear layer of this network ends in {listed(absent) or 'nothing'}: name layers to adapt")
    return {name: layer for name, layer in linear.items() if ends_in(name, targets)}


def _place(layer: Layer) -> tuple[tuple[int, ...], torch.device]:
    """Shape of the weight, and where the layer computes."""
    if isinstance(layer, QuantisedLinear):
        return layer.quantised.shape, next(layer.quantised.buffers()).device
    return (
        (layer.shape, layer.device)
        if isinstance(layer, BorrowedLinear)
        else (tuple(layer.weight.shape), layer.weight.device)
    )


def ends_in(name: str, targets: Sequence[str]) -> bool:
    """Is a layer meant by one of these ends of names? PEFT reads them so too."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _lengths(adapter: Adapter) -> Tensor | None:
    return None if adapter.lora_magnitude_vector is None else adapter.lora_magnitude_vector.detach()
