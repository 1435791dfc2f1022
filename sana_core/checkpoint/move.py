"""Bring the tensors of a file to the device and number type of a network."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..errors import CheckpointError


def check_stored(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError if a tensor stands for more numbers than are stored, which a file of a few bytes can do."""
    if tensor.is_meta:
        return
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"the tensor {key} repeats the numbers that are stored: the file is damaged")


def moved(
    tensors: dict[str, Tensor],
    device: str | torch.device,
    dtype: torch.dtype | None,
    quantised: Collection[str] = (),
) -> dict[str, Tensor]:
    """The tensors on `device`, numbers with a fraction in `dtype`; None keeps each tensor's own type.

    quantised: layers of which only the bias is converted.

    One tensor after the other is taken out of `tensors`, converted on the CPU and moved. So the device never holds more
    than the result, and the CPU one converted tensor beside the file, which is mapped into memory. Raises
    CheckpointError for a tensor that stands for more numbers than are stored, which a file of a few bytes can hold.
    """
    result = {}
    for key in list(tensors):
        tensor = tensors.pop(key)
        check_stored(key, tensor)
        layer, _, name = key.rpartition(".")
        stays = layer in quantised and name != "bias"
        wanted = dtype if dtype and tensor.is_floating_point() and not stays else tensor.dtype
        result[key] = tensor.to(wanted).to(device)
    return result
