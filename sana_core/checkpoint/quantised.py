"""Name the quantised files that sana_core does not compute with, so that nobody takes them for damaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quantised.formats import SCALED_FP8, SIDES
from .weights import quantised_layers

# What a tool calls its format, parts at the end of keys of which one shows it, and what can load it.
OTHER_TOOLS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Nunchaku's SVDQuant", (".wscales", ".smooth", ".smooth_orig"), "Nunchaku"),
    ("bitsandbytes", (".absmax", ".quant_map", ".bitsandbytes__nf4", ".bitsandbytes__fp4", ".SCB"), "diffusers"),
    ("GPTQ or AWQ", (".qzeros", ".g_idx", ".qweight"), "the tool that made it"),
    ("optimum-quanto", (".weight._data", ".weight._scale"), "diffusers"),
)
# Number types that a network can be loaded from by a plain conversion.
COMPUTABLE = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
)
UNQUANTISED = "expected float32, bfloat16 or float16"


def refuse_quantised(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: Mapping | None = None,
    *,
    instead: str = "or use an unquantised file",
) -> None:
    """Raise CheckpointError if these are the tensors of a quantised network. It names the format, a key that shows it
    and what can load the file.

    metadata: of the safetensors file.  config: the folder's config.json.  instead: what else to do.
    """
    if found := quantisation(tensors, metadata, config):
        name, key, tool = found
        raise CheckpointError(f"it is quantised ({name}, see {key}), {UNQUANTISED}: load it in {tool}, {instead}")


def quantisation(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, config: Mapping | None = None
) -> tuple[str, str, str] | None:
    """Name of the format, what shows it, and what can load it; None for a network that is not quantised."""
    for name, ends, tool in OTHER_TOOLS:
        if key := _first(tensors, ends):
            return name, key, tool
    if layers := quantised_layers(tensors, metadata):
        layer, form = next(iter(layers.items()))
        return form.name, layer, "ComfyUI"
    if key := _first(tensors, tuple(f".{side}" for side in SIDES)):
        return "with scales", key, "ComfyUI"
    if key := next((key for key in tensors if key.rpartition(".")[2] == SCALED_FP8), None):
        return SCALED_FP8, key, "ComfyUI"
    stated = (config or {}).get("quantization_config")
    if isinstance(stated, Mapping):
        method = stated.get("quant_method", "by a method that is not named")
        return str(method), "quantization_config in its config.json", "diffusers"
    key = next((key for key in tensors if key.endswith(".weight") and tensors[key].dtype not in COMPUTABLE), None)
    return None if key is None else (f"stored as {str(tensors[key].dtype)[6:]}", key, "the tool that made it")


def _first(keys: Iterable[str], ends: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key.endswith(ends)), None)
