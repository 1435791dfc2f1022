"""Registers, shared memory and occupancy of the Triton kernels: `python bench/registers.py [--json FILE]`.

Prints a table in Markdown. Needs no GPU: Triton compiles for architectures that are not there, and its own ptxas says
what a kernel takes. Exits with 1 if a kernel spills registers to memory.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[1]))

from sana_core.kernels.triton import gated_depthwise, linear_attention, modulation, rms_norm
from sana_core.kernels.triton.ops import OPTIONS

DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}  # Triton's names -> bytes
FLOAT32 = {"states", "normalizers", "state", "normalizer"}  # pointers to float32 whatever the type of the inputs
SCALARS = {"eps": "fp32", "limit": "fp32"}
ALIGNED = ("_batch", "_token", "_head", "_row", "_column", "channels")  # ends of names: multiples of 16, as in SANA


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor. Source: NVIDIA/cccl, libcudacxx/include/cuda/__device/arch_traits.h, as in the CUDA C++
    Programming Guide, "Technical Specifications per Compute Capability"."""

    warps: int
    blocks: int
    shared: int


LIMITS = {
    80: Limits(64, 32, 164 * 1024),
    86: Limits(48, 16, 100 * 1024),
    89: Limits(48, 24, 100 * 1024),
    90: Limits(64, 32, 228 * 1024),
    100: Limits(64, 32, 228 * 1024),
    120: Limits(48, 24, 100 * 1024),
}
REGISTERS = 64 * 1024  # per multiprocessor
REGISTER_UNIT = 256  # a warp gets multiples of it
SHARED_PER_BLOCK = 1024  # the system keeps it in each block


@dataclass(frozen=True)
class Variant:
    """A kernel at one of its block sizes."""

    kernel: Any
    dtype: str
    block: str
    constants: dict[str, Any]
    warps: int
    stages: int = 3

    @property
    def name(self) -> str:
        return self.kernel.__name__.removesuffix("_kernel")

    def source(self) -> ASTSource:
        names = self.kernel.arg_names
        signature = {name: self._type(name) for name in names}
        attributes = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name][0] == "*" or (signature[name] == "i32" and name.endswith(ALIGNED))
        }
        return ASTSource(fn=self.kernel, signature=signature, constexprs=self.constants, attrs=attributes)

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        if name in FLOAT32:
            return "*fp32"
        if name in SCALARS:
            return SCALARS[name]
        return f"*{self.dtype}" if name in POINTERS else "i32"


POINTERS = {"query", "key", "value", "x", "update", "gate", "shift", "scale", "maps", "weight", "bias", "residual"}
POINTERS |= {"out", "normed"}


def variants(dtype: str) -> Iterator[Variant]:
    """All kernels at all block sizes that they choose for numbers of `dtype`, with all their options."""
    size = DTYPES[dtype]
    head = {"D": linear_attention.HEAD_DIM}
    products = {"PRECISION": "tf32x3" if dtype == "fp32" else "tf32"}
    tokens, warps, stages = linear_attention.STATE_BLOCKS[size]
    constants = {**head, **products, "BLOCK": tokens}
    yield Variant(linear_attention.state_kernel, dtype, f"{tokens} tokens", constants, warps, stages)
    if dtype == "fp32":  # whatever the inputs are
        yield Variant(linear_attention.total_kernel, dtype, "1 state", head, 4)
    tokens, warps, stages = linear_attention.APPLY_BLOCKS[size]
    constants = {**head, **products, "BLOCK": tokens, "TOKENS": linear_attention.APPLY_TOKENS}
    yield Variant(linear_attention.apply_kernel, dtype, f"{tokens} tokens", constants, warps, stages)
    for channels, warps in modulation.BLOCKS:
        constants = {"BLOCK": channels}
        yield Variant(modulation.norm_kernel, dtype, f"{channels} channels", constants, warps)
        constants = {"BLOCK": channels, "GATED": True, "LIMITED": True}
        yield Variant(modulation.residual_kernel, dtype, f"{channels} channels", constants, warps)
        yield Variant(modulation.residual_norm_kernel, dtype, f"{channels} channels", constants, warps)
    channels, columns, warps = gated_depthwise.BLOCKS[size]
    constants = {"CHANNELS": channels, "COLUMNS": columns}
    yield Variant(gated_depthwise.gated_depthwise_kernel, dtype, f"{channels} channels", constants, warps)
    for channels, columns, warps in rms_norm.BLOCKS:
        constants = {"CHANNELS": channels, "COLUMNS": columns, "ADDED": True}
        yield Variant(rms_norm.rms_norm_kernel, dtype, f"{columns} x {channels} channels", constants, warps)


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes: registers per thread, bytes of shared memory per block, bytes spilled."""

    kernel: str
    dtype: str
    block: str
    warps: int
    capability: int
    registers: int
    shared: int
    spilled: int
    occupancy: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "occupancy", occupancy(self.capability, self.warps, self.registers, self.shared))


def compiled(variant: Variant, capability: int) -> Usage:
    """Compiles for an architecture; ptxas writes what the kernel takes to its log."""
    log = io.StringIO()
    options = {"num_warps": variant.warps, "num_stages": variant.stages, **OPTIONS}
    with tempfile.TemporaryDirectory() as cache, knobs.cache.scope(), knobs.nvidia.scope(), redirect_stdout(log):
        knobs.cache.dir = cache
        knobs.nvidia.dump_ptxas_log = True
        kernel = triton.compile(variant.source(), target=GPUTarget("cuda", capability, 32), options=options)
    registers = re.findall(r"Used (\d+) registers", log.getvalue())
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    if len(registers) != 1 or len(spilled) != 1:
        raise RuntimeError(f"{variant.name}: the log of ptxas has another form: {log.getvalue()!r}")
    bytes_spilled = sum(map(int, spilled[0]))
    found = int(registers[0]), kernel.metadata.shared, bytes_spilled
    return Usage(variant.name, variant.dtype, variant.block, variant.warps, capability, *found)


def occupancy(capability: int, warps: int, registers: int, shared: int) -> float:
    """Resident warps by the most that the architecture can hold, for large grids.

    Registers are given to warps in units of 256; as in the occupancy calculator of Nsight Compute.
    """
    limits = LIMITS[capability]
    per_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // per_warp // 4 * 4 // warps  # each quarter of a multiprocessor has its own registers
    by_shared = limits.shared // (shared + SHARED_PER_BLOCK)
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared) * warps / limits.warps


def table(usages: list[Usage]) -> str:
    """A row per kernel, type and block; a column per architecture."""
    rows: dict[tuple[str, str, str, int], dict[int, Usage]] = {}
    for usage in usages:
        rows.setdefault((usage.kernel, usage.dtype, usage.block, usage.warps), {})[usage.capability] = usage
    lines = ["| kernel | type | block | warps | " + " | ".join(f"sm_{c}" for c in LIMITS) + " |"]
    lines.append("| --- " * (4 + len(LIMITS)) + "|")
    for (kernel, dtype, block, warps), found in rows.items():
        lines.append(f"| {kernel} | {dtype} | {block} | {warps} | {' | '.join(map(cell, found.values()))} |")
    return "\n".join(lines)


def cell(usage: Usage) -> str:
    spilled = f", {usage.spilled} spilled" if usage.spilled else ""
    return f"{usage.registers}, {usage.shared}{spilled}, {usage.occupancy:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    arguments = parser.parse_args()
    pairs = [pair for dtype in arguments.dtypes for pair in product(variants(dtype), LIMITS)]
    usages = [compiled(variant, capability) for variant, capability in pairs]
    print(f"Triton {triton.__version__}. Each cell: registers per thread, bytes of shared memory, occupancy.\n")  # noqa: T201
    print(table(usages))  # noqa: T201
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(usage) for usage in usages], indent=1))
    sys.exit(any(usage.spilled for usage in usages))


if __name__ == "__main__":
    main()
