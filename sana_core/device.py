"""What the device that networks are loaded to can do: number types, free memory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from .errors import InputError
from .shortage import out_of_memory

GPUS = ("cuda", "xpu", "mps")  # kinds of devices, in the order in which they are looked for
# What properties of Intel's devices are called; older versions of PyTorch lack some of them.
XPU_ABILITIES = {
    torch.bfloat16: "has_bfloat16_conversions",
    torch.float16: "has_fp16",
    torch.float64: "has_fp64",
}
MEMINFO = Path("/proc/meminfo")


def pick_device(device: str | torch.device | None) -> torch.device:
    """None: the GPU if there is one (CUDA or ROCm, Intel's XPU, Apple's MPS, in this order), else the CPU.

    Raises InputError for a device that this machine does not have.
    """
    if device is None:
        return torch.device(next((kind for kind in GPUS if _is_available(kind)), "cpu"))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
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
        if out_of_memory(error):
            raise
        raise InputError(
            f"the device {chosen} was asked for, but PyTorch cannot use it here ({error}): use cpu"
        ) from error
    return chosen


def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """Does the device compute in this number type itself? PyTorch can emulate bfloat16, many times slower.

    CPUs and the meta device compute in every type. CUDA: bfloat16 from compute capability 8.0 (RTX 30), float16
    always. MPS has no float64, and bfloat16 from macOS 14. XPU: where the driver says so.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        with nullcontext() if device.index is None else torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        if dtype == torch.bfloat16:
            return torch.backends.mps.is_macos_or_newer(14, 0)
        return dtype != torch.float64
    if device.type == "xpu" and dtype in XPU_ABILITIES:
        return bool(getattr(torch.xpu.get_device_properties(device), XPU_ABILITIES[dtype], True))
    return True


def usable(dtypes: torch.dtype | Sequence[torch.dtype], device: str | torch.device) -> torch.dtype:
    """The first of these number types that the device computes in itself; float32 where there is none."""
    place = torch.device(device)
    wanted = [dtypes] if isinstance(dtypes, torch.dtype) else dtypes
    return next((dtype for dtype in wanted if can_compute(place, dtype)), torch.float32)


def has_float64(device: str | torch.device) -> bool:
    """Can tensors on the device be float64? False on Apple's MPS and on Intel GPUs without it."""
    return can_compute(torch.device(device), torch.float64)


def free_memory(device: str | torch.device) -> int | None:
    """Bytes that new tensors on the device can have, or None if PyTorch or the system do not say."""
    place = torch.device(device)
    if place.type == "cpu":
        return _free_host_memory()
    if place.type == "cuda":
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + unused
    if place.type == "xpu":
        used = torch.xpu.memory_allocated(place)
        try:
            return torch.xpu.mem_get_info(place)[0] + torch.xpu.memory_reserved(place) - used
        except (AttributeError, RuntimeError):  # an older PyTorch, or a driver that does not say
            return torch.xpu.get_device_properties(place).total_memory - used
    if place.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def _is_available(kind: str) -> bool:
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    return backend is not None and backend.is_available()


def _free_host_memory() -> int | None:
    """What Linux calls available; elsewhere the free pages, where the system counts them."""
    if MEMINFO.is_file():
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
        if available:
            return int(available[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
