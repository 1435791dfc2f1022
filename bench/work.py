"""Kernels and bytes of a transformer block, counted without a GPU: `python -m bench.work [--json FILE]`.

A step with guidance runs on fake tensors, which have shapes and a device but no values. Every operation that PyTorch
sends to the device is a kernel, unless it only makes a view or reserves memory. It moves what it reads and writes, each
tensor once, and of a broadcast one what is stored. The work of a block is half of the difference between a network of
three blocks and one of a single block.

The unit is the D-byte: bytes of activations, weights left out, for each picture token and each of its D channels. One
read or write of all tokens in bfloat16 is 2 of them.

Softmax attention counts as one kernel, as it is on a GPU. The project's own operations count as the Triton kernels that
they launch. Workspaces and caches are not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.networks import diffusers_transformer, fake_gpu, transformer
from bench.paired import Run
from bench.variants import Step, diffusers_step, make_step, own_step
from sana_core.config import POSITIONS, TransformerConfig
from sana_core.geometry import DC_AE_F32
from sana_core.kernels.choice import Kernels, kernels_for
from sana_core.presets import BASE_06, BASE_16

NETWORKS = {"0.6B": BASE_06, "1.6B": BASE_16}
PIXELS = (512, 1024, 4096)
TOKENS = 120  # of the prompt
LAUNCHES = {"linear_attention": 2}  # Triton kernels of the operations of the namespace "sana"; 1 of the others
RESERVES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
NEVER_READ = ("copy_", "fill_", "zero_")  # of these the first tensor is written alone


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of one block. by_kernel: name -> (kernels, D-bytes), largest first."""

    kernels: float
    d_bytes: float
    by_kernel: dict[str, tuple[float, float]]


class Counting(TorchDispatchMode):
    """Counts kernels and the bytes of what they read and write, but for tensors in the storages of `weights`."""

    def __init__(self, weights: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self._attention = _OneAttention(self)

    def __enter__(self) -> Counting:
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._attention.__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(result)
        namespace, name = func._schema.name.split("::")
        if name in NEVER_READ:
            read = read[1:]
        elif not written or name in RESERVES or (not func._schema.is_mutable and _same_storages(written, read)):
            return result
        self.add(name, [*read, *written], LAUNCHES.get(name, 1) if namespace == "sana" else 1)
        return result

    def add(self, name: str, moved: Sequence[Tensor], kernels: int = 1) -> None:
        self.kernels[name] += kernels
        self.bytes[name] += sum(map(self._size, moved))

    def _size(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        return 0 if storage._cdata in self._weights else min(tensor.numel() * tensor.itemsize, storage.nbytes())


class _OneAttention(TorchFunctionMode):
    """Softmax attention as one operation, whose result is laid out as GPU kernels do it: heads next to one another."""

    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self.counting = counting

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, value = args[0], args[2]
        batch, heads, tokens, _ = query.shape
        result = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
        self.counting.add("scaled_dot_product_attention", [*_tensors((args, kwargs)), result])
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _same_storages(results: list[Tensor], arguments: list[Tensor]) -> bool:
    given = {tensor.untyped_storage()._cdata for tensor in arguments}
    return all(tensor.untyped_storage()._cdata in given for tensor in results)


# --- what is counted


def fast_kernels() -> Kernels | None:
    """The Triton kernels of `fast="auto"`, also where no GPU would let them run; None without them."""
    if find_spec("triton") is None or find_spec("sana_core.kernels.triton") is None:
        return None
    chosen = vars(kernels_for("auto"))
    return Kernels(**{name: operation.kernel for name, operation in chosen.items()})


Made = tuple[nn.Module, Callable[[Step], Run]]


def _diffusers(config: TransformerConfig, step: Step, device: torch.device, dtype: torch.dtype) -> Made:
    network = diffusers_transformer(config, step.noise.shape[-1], device, dtype)
    return network, partial(diffusers_step, network)


def _own(
    config: TransformerConfig,
    step: Step,
    device: torch.device,
    dtype: torch.dtype,
    *,
    triton: bool = False,
    joined: bool = False,
    remember: bool = False,
) -> Made:
    kernels = fast_kernels() if triton else kernels_for("off")
    if kernels is None:
        raise LookupError("the Triton kernels are not here")
    network = transformer(config, device, dtype, kernels=kernels)
    if joined:
        network.join_projections()
    return network, partial(own_step, network, remember=remember)


DIFFUSERS, PLAIN, KEPT = "diffusers", "sana_core", "sana_core, prompts kept"
WITHOUT_TRITON, FAST = "sana_core, without Triton", "sana_core, with Triton"  # fast="auto" on a GPU
VARIANTS: dict[str, Callable[..., Made]] = {
    DIFFUSERS: _diffusers,
    PLAIN: _own,
    KEPT: partial(_own, remember=True),
    WITHOUT_TRITON: partial(_own, joined=True, remember=True),
    FAST: partial(_own, triton=True, joined=True, remember=True),
}


def count(
    variant: str,
    config: TransformerConfig,
    pixels: int,
    *,
    tokens: int = TOKENS,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | None = None,
) -> Work:
    """Of one block of a network of this width, in a step with guidance. variant: one of VARIANTS.

    device: of the fake tensors; None: a GPU, or what stands for one.  Raises LookupError for kernels that are not
    installed.
    """
    device = device or fake_gpu()
    sized = replace(config, position={2048: POSITIONS["2k"], 4096: POSITIONS["4k"]}.get(pixels))
    shallow, deep = (_counted(variant, replace(sized, depth=n), pixels, tokens, dtype, device) for n in (1, 3))
    sequences = 1 if config.guidance_embed else 2
    unit = 2 * sequences * (pixels // DC_AE_F32.downscale) ** 2 * config.hidden_size  # of two blocks
    parts = {
        name: ((deep.kernels[name] - shallow.kernels[name]) / 2, (deep.bytes[name] - shallow.bytes[name]) / unit)
        for name in deep.kernels
    }
    kernels, d_bytes = (sum(part[index] for part in parts.values()) for index in (0, 1))
    largest = sorted(parts.items(), key=lambda part: -part[1][1])
    return Work(kernels=kernels, d_bytes=d_bytes, by_kernel={name: part for name, part in largest if any(part)})


def _counted(
    variant: str, config: TransformerConfig, pixels: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> Counting:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        step = make_step(config, pixels, tokens, device, dtype)
        network, runner = VARIANTS[variant](config, step, device, dtype)
        run = runner(step)
        run()  # keys and values of the prompts are made now
        with Counting([*network.parameters(), *network.buffers()]) as counting:
            run()
    return counting


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table, and what each kernel does, to this file")
    parser.add_argument("--pixels", type=int, nargs="+", default=PIXELS, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the prompt (default: %(default)s)")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kernels", action="store_true", help="show what each kernel does")
    args = parser.parse_args(argv)
    said = f"PyTorch {torch.__version__}, fake tensors on {fake_gpu()}, bfloat16, {args.tokens} tokens, batch of two"
    sys.stdout.write(
        f"{said}\n\n{'network':8} {'pixels':>6}  {'variant':28} {'kernels':>8} {'D-bytes':>8}  of a block\n"
    )
    rows = []
    for name, pixels, variant in product(args.network, args.pixels, VARIANTS):
        try:
            work = count(variant, NETWORKS[name], pixels, tokens=args.tokens)
        except LookupError as error:
            sys.stdout.write(f"{name:8} {pixels:6}  {variant:28} {error.args[0]}\n")
            continue
        sys.stdout.write(f"{name:8} {pixels:6}  {variant:28} {work.kernels:8.1f} {work.d_bytes:8.1f}\n")
        for kernel, (kernels, d_bytes) in work.by_kernel.items() if args.kernels else ():
            sys.stdout.write(f"{'':19} {kernel:25} {kernels:8.1f} {d_bytes:8.1f}\n")
        sys.stdout.flush()
        rows.append({"network": name, "pixels": pixels, "variant": variant, **asdict(work)})
    if args.json:
        args.json.write_text(json.dumps({"obtained": said, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
