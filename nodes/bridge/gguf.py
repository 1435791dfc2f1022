"""GGUF's weights in ComfyUI: layers that hold them as the host's quantised tensors, and numbers at each use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor

from ...sana_core.checkpoint.weights import mark_tensor, quantised_layers
from ...sana_core.errors import CheckpointError
from ...sana_core.quantised.formats import GGUF, MARK, format_named
from ...sana_core.quantised.gguf_blocks import dequantise


def has_gguf(tensors: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Are there layers in a GGUF format in a state dict, under `prefix`?"""
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix) and key.endswith(f".{MARK}")}
    return any(form.name.startswith(GGUF) for form in quantised_layers(own).values())


def gguf_operations(base: Any) -> Any:
    """The host's layers, which know GGUF besides.  base: a class of them as `comfy.ops.mixed_precision_ops` makes.

    Raises CheckpointError where the host's own quantised tensors are not there.
    """
    try:
        from .gguf_layout import LAYOUT, packed_tensor
    except ImportError as error:
        raise CheckpointError(
            f"GGUF needs the package comfy-kitchen, which this ComfyUI cannot use ({error}): "
            "pip install --upgrade comfy-kitchen, or choose a file that is not quantised"
        ) from error

    class Packed:
        """What layers with a weight in GGUF's blocks have in common.

        Under dynamic VRAM the host patches a weight once, and writes it back into the bytes that it came from. A
        patched weight has larger blocks. So such a patch is a function here, which is called at each use.
        """

        patch_at_use: Any = None
        functions: Any = ()

        @property
        def weight_lowvram_function(self) -> Any:
            return None if is_packed(self.weight) else self.patch_at_use  # type: ignore[attr-defined]

        @weight_lowvram_function.setter
        def weight_lowvram_function(self, patch: Any) -> None:
            self.patch_at_use = patch

        @property
        def weight_function(self) -> Any:
            if self.patch_at_use is None or not is_packed(self.weight):  # type: ignore[attr-defined]
                return self.functions
            return [self.patch_at_use, *self.functions]

        @weight_function.setter
        def weight_function(self, functions: list[Any]) -> None:
            self.functions = functions

        def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
            kind = block_type(state_dict, prefix)
            if kind is None:
                super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]
                return
            del state_dict[f"{prefix}{MARK}"]
            weight = packed_tensor(state_dict.pop(f"{prefix}weight"), kind, *self.means())  # type: ignore[attr-defined]
            device = getattr(self, "factory_kwargs", {}).get("device")
            weight = weight if device is None else weight.to(device=device)
            # for the host: what it multiplies by are numbers, as there are no kernels for these blocks
            self.quant_format, self.layout_type, self._full_precision_mm = GGUF + kind, LAYOUT, True
            self.weight = torch.nn.Parameter(weight, requires_grad=False)
            torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *args)  # type: ignore[arg-type]
            missing = args[2]
            if f"{prefix}weight" in missing:
                missing.remove(f"{prefix}weight")

        def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **options: Any) -> Any:
            """Marked with the block type that the weight has now, which a LoRA may have changed."""
            found = super().state_dict(*args, destination=destination, prefix=prefix, **options)  # type: ignore[misc]
            weight: Any = self.weight
            if is_packed(weight):
                found[f"{prefix}{MARK}"] = mark_tensor(format_named(GGUF + weight._params.kind))
            return found

    def is_packed(weight: Any) -> bool:
        return getattr(weight, "_layout_cls", None) == LAYOUT

    class Operations(base):
        class Linear(Packed, base.Linear):
            def means(self) -> tuple[tuple[int, int], torch.dtype]:
                return self._orig_shape, self.factory_kwargs["dtype"]

        class Embedding(Packed, base.Embedding):
            def means(self) -> tuple[tuple[int, int], torch.dtype]:
                return (self.num_embeddings, self.embedding_dim), base._compute_dtype

            def forward_comfy_cast_weights(self, input: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
                """Only the rows that are read become numbers."""
                if not is_packed(self.weight) or self.weight_function:
                    return super().forward_comfy_cast_weights(input, out_dtype=out_dtype)
                dtype = self.weight.dtype
                weight, _, lent = comfy.ops.cast_bias_weight(self, device=input.device, dtype=dtype, offloadable=True)
                try:
                    if not is_packed(weight):
                        return F.embedding(input, weight).to(out_dtype or dtype)
                    packed: Any = weight
                    rows = dequantise(F.embedding(input, packed._qdata), packed._params.kind)
                    return rows.to(out_dtype or dtype)
                finally:
                    comfy.ops.uncast_bias_weight(self, weight, None, lent)

    return Operations


def block_type(state_dict: Mapping[str, Tensor], prefix: str) -> str | None:
    """The block type of the layer under `prefix`; None where it is in no GGUF format."""
    mark = f"{prefix}{MARK}"
    layers = quantised_layers({mark: state_dict[mark]}) if mark in state_dict else {}
    name = next((form.name for form in layers.values()), "")
    return name.removeprefix(GGUF) if name.startswith(GGUF) else None
