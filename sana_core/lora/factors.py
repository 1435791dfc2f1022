"""The change of a weight that adapter factors stand for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Each kind of adapter, the sets of tensors of which one makes it, and the tensors that may stand beside them.
# Each factor of a LoKr may be given as a product of two.
KINDS: tuple[tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]], ...] = (
    ("LoRA", (("up", "down"),), ("mid", "up_bias", "singular_values")),
    ("LoHa", (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),), ("hada_t1", "hada_t2")),
    ("LoKr", tuple((*first, *second) for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
                   for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))), ("lokr_t2",)),
    ("full difference", (("diff",), ("diff_b",)), ()),
    ("bias", (("bias",),), ()),
)  # fmt: skip
LENGTHS = ("dora_scale", "magnitude")  # of rows or columns, which makes a DoRA
_BESIDE_ALL = {"alpha", "diff_b", "bias", *LENGTHS}
RANKED = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")  # the first dimension of the first one present is the rank


def kind_of(roles: Collection[str]) -> tuple[str | None, set[str]]:
    """Name of the method that tensors of these roles make, None for an incomplete set, and the roles it uses."""
    for kind, sets, beside in KINDS:
        for needed in sets:
            if set(needed) <= set(roles):
                used = set(roles) & {*needed, *beside, *_BESIDE_ALL}
                return (f"DoRA {kind}" if used & set(LENGTHS) else kind), used
    return None, set()


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a file says of one module: its tensors by role, and how they are scaled.

    The scale is alpha / divisor. alpha is None if the file states none: the scale is then 1. divisor is None if the
    file states none: it is then the rank that the tensors show.
    """

    tensors: dict[str, Tensor]
    alpha: float | None = None
    divisor: float | None = None

    @property
    def kind(self) -> str | None:
        """Name of the method; None for an incomplete set of tensors."""
        return kind_of(self.tensors)[0]

    @property
    def rank(self) -> int | None:
        return next((self.tensors[role].shape[0] for role in RANKED if role in self.tensors), None)

    @property
    def scale(self) -> float:
        divisor = self.divisor or self.rank
        return self.alpha / divisor if self.alpha is not None and divisor else 1.0

    def to(self, device: str | torch.device) -> Factors:
        return replace(self, tensors={role: tensor.to(device) for role, tensor in self.tensors.items()})

    def delta(self) -> Tensor | None:
        """The difference of the weight, (out, in, ...) or (out, in), float32, before any DoRA; None if only the bias
        changes.
        """
        t = {role: tensor.float() for role, tensor in self.tensors.items()}
        if "up" in t:
            return self.scale * (
                _product(t["up"], t["down"]) if "mid" not in t else _tucker(t["mid"], _matrix(t["up"]).T, t["down"])
            )
        if "hada_w1_a" in t:
            return self.scale * _hadamard_part(t, 1) * _hadamard_part(t, 2)
        if not {"lokr_w1", "lokr_w1_a"} & t.keys():
            return t.get("diff")
        first, second = _kronecker_part(t, 1), _kronecker_part(t, 2)
        first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
        return self.scale * torch.kron(first, second.contiguous())

    def low_rank(self) -> tuple[Tensor, Tensor] | None:
        """The difference of the weight as a product up (out, r) @ down (r, in), float32; None for other kinds."""
        if "up" not in self.tensors or self.tensors.keys() & {"mid", *LENGTHS}:
            return None
        return self.scale * _matrix(self.tensors["up"].float()), _matrix(self.tensors["down"].float())

    def bias_change(self, bias: Tensor) -> Tensor | None:
        """What is added to `bias` (out,), float32, at strength 1; None if it does not change.

        A file has a difference, a bias of the up-projection (PEFT's `lora_bias`), or the whole trained bias.
        """
        t = {role: self.tensors[role].float() for role in ("diff_b", "up_bias", "bias") if role in self.tensors}
        changes = [t["diff_b"]] if "diff_b" in t else []
        changes += [self.scale * t["up_bias"]] if "up_bias" in t else []
        changes += [t["bias"] - bias.float()] if "bias" in t else []
        return sum(changes[1:], changes[0]) if changes else None

    def change(self, weight: Tensor) -> Tensor | None:
        """What is added to `weight` (float32) at strength 1.

        The change of a DoRA (arXiv:2402.09353, eq. 5) depends on the weight that it is added to.
        """
        delta = self.delta()
        if delta is None:
            return None
        delta = delta.reshape(weight.shape)
        lengths = self.tensors.get("magnitude", self.tensors.get("dora_scale"))
        if lengths is None:
            return delta
        return rescaled(weight + delta, lengths.float(), per_row=self.per_row(weight.shape[0])) - weight

    def per_row(self, rows: int) -> bool:
        """True if DoRA sets the lengths of rows, as PEFT's does; False if it sets those of columns, over all rows."""
        return "magnitude" in self.tensors or self.tensors["dora_scale"].shape[0] == rows


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.ndim > 1 else tensor


def _product(left: Tensor, right: Tensor) -> Tensor:
    return _matrix(left) @ _matrix(right)


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """core (r, s, ...), left (r, out), right (s, in) -> (out, in, ...) (LyCORIS, arXiv:2309.14859)."""
    return torch.einsum("rs...,ro,si->oi...", core, left, _matrix(right))


def _hadamard_part(t: dict[str, Tensor], index: int) -> Tensor:
    a, b, core = t[f"hada_w{index}_a"], t[f"hada_w{index}_b"], t.get(f"hada_t{index}")
    return _product(a, b) if core is None else _tucker(core, a, b)


def _kronecker_part(t: dict[str, Tensor], index: int) -> Tensor:
    name = f"lokr_w{index}"
    if name in t:
        return t[name]
    core = t.get("lokr_t2") if index == 2 else None
    return _product(t[f"{name}_a"], t[f"{name}_b"]) if core is None else _tucker(core, t[f"{name}_a"], t[f"{name}_b"])


def rescaled(weight: Tensor, lengths: Tensor, *, per_row: bool) -> Tensor:
    """`weight` (out, in, ...) with each row, or each column over all rows, scaled to its length in `lengths`."""
    axis = 0 if per_row else 1
    norm = weight.transpose(0, axis).flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    return weight * (lengths.flatten() / norm).reshape(shape)
