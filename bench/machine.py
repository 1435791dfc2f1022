"""What the machine says of itself, and of a run: names, clocks, peak memory, kernels."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bench.paired import Run

PACKAGES = ("torch", "diffusers", "transformers", "triton")


def about(device: torch.device) -> str:
    """The processor that computes, and the versions of what computes there."""
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed(name)))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}; {versions}"
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "load unknown"
    return f"{processor()}; {threads}, {load}; {versions}"


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Name of the CPU, with its number of family and model where Linux tells it; virtual machines hide much."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in path.read_text().splitlines())
    told = {key.strip(): value.strip() for key, _, value in lines}
    numbers = ", ".join(f"{key.removeprefix('cpu ')} {told[key]}" for key in ("cpu family", "model") if key in told)
    matrix_units = ", with AMX" if "amx_bf16" in told.get("flags", "") else ""
    return f"{told.get('model name', platform.machine())} ({numbers}{matrix_units})"


def state() -> str:
    """Clocks, temperature and power of the GPU now, which tell whether it was throttled."""
    if not shutil.which("nvidia-smi"):
        return ""
    fields = "clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def peak_bytes(run: Run) -> int:
    """Most bytes of the GPU that a run holds beyond what is there before. A CUDA graph holds its memory all the time,
    so a run of it adds nothing.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kernels_run(run: Run) -> int:
    """Kernels and copies that a run makes the GPU do."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profile.events() or ())
