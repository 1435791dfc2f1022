"""Name the quantised files that are not computed with here, so that nobody takes them for damaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, shortened
from ..quantised.formats import SIDES
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
READ = "one of ComfyUI's or GGUF's formats, float32, bfloat16 or float16"


def refuse_other_tools(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: Mapping | None = None,
    *,
    instead: str = "or use another file",
) -> None:
    """Raise CheckpointError if these are the tensors of a network that was quantised in a format that is not read here.
    It names the format, a key that shows it and what can load the file.

    metadata: of the safetensors file.  config: the folder's config.json.  instead: what else to do.
    """
    if found := _format_of_others(tensors, metadata, config):
        name, key, tool = found
        raise CheckpointError(
            f"it is quantised ({shortened(name)}, see {key}), expected {READ}: load it in {tool}, {instead}"
        )


def _format_of_others(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None, config: Mapping | None
) -> tuple[str, str, str] | None:
    """Name of the format, what shows it, and what can load it; None for what is read here."""
    for name, ends, tool in OTHER_TOOLS:
        if key := _first(tensors, ends):
            return name, key, tool
    layers = quantised_layers(tensors, metadata)
    for layer, form in layers.items():
        if not form.known:
            return form.name, layer, "a newer ComfyUI"
    stray = (key for key in tensors if key.rpartition(".")[2] in SIDES and key.rpartition(".")[0] not in layers)
    if key := next(stray, None):
        return "with scales", key, "the tool that made it"
    stated = (config or {}).get("quantization_config")
    if isinstance(stated, Mapping):
        method = stated.get("quant_method", "by a method that is not named")
        return str(method), "quantization_config in its config.json", "diffusers"
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(".")
        if name == "weight" and layer not in layers and tensor.dtype not in COMPUTABLE:
            return f"stored as {str(tensor.dtype)[6:]}", key, "the tool that made it"
    return None


def _first(keys: Iterable[str], ends: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key.endswith(ends)), None)
