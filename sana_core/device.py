"""The device that networks are loaded to."""

from __future__ import annotations

import torch

from .errors import InputError


def pick_device(device: str | torch.device | None) -> torch.device:
    """None: the GPU if there is one, else the CPU. Raises InputError for a device that this machine does not have."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f'"{device}" is not a device: use cpu, cuda, or cuda:1 for the second GPU') from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= found:
        raise InputError(
            f"the device {chosen} was asked for, but PyTorch finds {found} CUDA GPUs here: use cpu, or install PyTorch "
            "for your GPU"
        )
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(
            f"the device {chosen} was asked for, but PyTorch cannot use it here ({error}): use cpu"
        ) from error
    return chosen


def has_float64(device: torch.device) -> bool:
    """Can tensors of float64 be made on this device? Apple's GPUs have none, Intel's some."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"
