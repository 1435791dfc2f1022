"""Low-rank adapters (LoRA, arXiv:2106.09685) on a frozen transformer, saved under the keys of diffusers and PEFT."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import InputError
from ..quantised.layers import QuantisedLinear
from .networks import seeded

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention layers, as in diffusers' training script for SANA
PREFIX = "transformer."


class Adapter(nn.Module):
    """x -> lora_B(lora_A(x)); it begins at zero. Its strength is one: alpha equals the rank."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, out_features, bias=False)
        nn.init.normal_(self.lora_A.weight, std=1 / rank)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_B(self.lora_A(x))


class AdaptedLinear(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: nn.Linear, adapter: Adapter) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.adapter(x)


class TrainedLora(nn.Module):
    """The adapters of one LoRA by the name of their layer."""

    def __init__(self, adapters: dict[str, Adapter]) -> None:
        super().__init__()
        self.names = list(adapters)
        self.adapters = nn.ModuleList(adapters.values())

    def tensors(self) -> dict[str, Tensor]:
        """What a LoRA file holds: `transformer.<layer>.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank)."""
        pairs = zip(self.names, self.adapters)
        return {
            f"{PREFIX}{name}.{key}": tensor for name, adapter in pairs for key, tensor in adapter.state_dict().items()
        }


def attach_lora(transformer: nn.Module, *, rank: int, seed: int, targets: tuple[str, ...] = TARGETS) -> TrainedLora:
    """Freeze `transformer` and put an adapter beside every linear layer whose name ends in one of `targets`.

    The adapters are in the returned module, on the CPU; moving the transformer moves them. Raises InputError if no
    layer has such a name.
    """
    if any(isinstance(layer, QuantisedLinear) for layer in transformer.modules()):
        raise InputError("the weights of this network are quantised: train a LoRA on the file they were made from")
    transformer.requires_grad_(False)
    names = [
        name
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear) and any(name == target or name.endswith(f".{target}") for target in targets)
    ]
    if not names:
        raise InputError(f"no linear layer of this network ends in {', '.join(targets)}: a LoRA needs layers to adapt")
    adapters: dict[str, Adapter] = {}
    with seeded(seed):
        for name in names:
            base = transformer.get_submodule(name)
            assert isinstance(base, nn.Linear)
            adapters[name] = Adapter(base.in_features, base.out_features, rank)
            parent, _, leaf = name.rpartition(".")
            setattr(transformer.get_submodule(parent), leaf, AdaptedLinear(base, adapters[name]))
    return TrainedLora(adapters)
