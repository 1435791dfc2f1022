"""The shape of the change that adapter factors make, without computing it.

PyTorch's meta device would tell it too, but loads modules for seconds at its first multiplication.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .factors import LENGTHS, Factors

Shape = tuple[int, ...]


def fits(factors: Factors, weight: Sequence[int]) -> bool:
    """True if the factors change a weight of this shape, (out, in) or (out, in, height, width), or only its bias.

    Matrices count as 1x1 convolutions and as flattened kernels. Raises ValueError for tensors that do not make a change
    of any weight, or set lengths that this one does not have.
    """
    change = change_shape(factors)
    if change is None:
        return True
    if _matrix(change) != _matrix(weight) and not _is_grouped(change, weight):
        return False
    columns = weight[1] if len(weight) > 1 else 0
    for role in set(LENGTHS) & factors.tensors.keys():
        if factors.tensors[role].numel() != (weight[0] if factors.per_row(weight[0]) else columns):
            raise ValueError("the lengths are of another weight")
    return True


def change_shape(factors: Factors) -> Shape | None:
    """Shape of `factors.delta()`, None if only the bias changes. Raises ValueError for tensors that do not go together."""
    shapes = {role: tuple(tensor.shape) for role, tensor in factors.tensors.items()}
    if "up" in shapes:
        return _product(shapes["up"], shapes["down"], shapes.get("mid"), out_first=True)
    if "hada_w1_a" in shapes:
        first, second = _factor(shapes, "hada_w1", "hada_t1"), _factor(shapes, "hada_w2", "hada_t2")
        if first != second:
            raise ValueError("the two factors differ in shape")
        return first
    if not {"lokr_w1", "lokr_w1_a"} & shapes.keys():
        return shapes.get("diff")
    first, second = _factor(shapes, "lokr_w1", ""), _factor(shapes, "lokr_w2", "lokr_t2")
    if len(first) > len(second):
        raise ValueError("the first factor has more dimensions than the second")
    padded = (*first, *[1] * (len(second) - len(first)))
    return tuple(a * b for a, b in zip(padded, second))


def _factor(shapes: dict[str, Shape], name: str, core: str) -> Shape:
    """A factor of a LoHa or LoKr, which is given whole or as a product."""
    return shapes[name] if name in shapes else _product(shapes[f"{name}_a"], shapes[f"{name}_b"], shapes.get(core))


def _product(left: Shape, right: Shape, core: Shape | None, out_first: bool = False) -> Shape:
    """(out, r) (r, in) -> (out, in). With a core (r, s, ...): (r, out), or (out, r) if `out_first`, and (s, in)."""
    (rows, columns), (inner, size) = _matrix(left), _matrix(right)
    if core is None:
        if columns != inner:
            raise ValueError("the two matrices differ in rank")
        return rows, size
    rank, out = (columns, rows) if out_first else (rows, columns)
    if core[:2] != (rank, inner):
        raise ValueError("the core and the matrices differ in rank")
    return out, size, *core[2:]


def _matrix(shape: Sequence[int]) -> Shape:
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else tuple(shape)


def _is_grouped(change: Shape, weight: Sequence[int]) -> bool:
    """OneTrainer's factors of a depthwise convolution: the up-projection has out / groups = 1 rows, the down-projection
    all channels.

    Their product has the weight's elements in its order, which is how Microsoft's loralib and ComfyUI take it.
    """
    return len(weight) == 4 and weight[1] == 1 and change[:1] == (1,) and prod(change) == prod(weight)
