"""Load a SANA transformer file as ComfyUI's MODEL, without its model detection."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...sana_core.checkpoint.canonical import canonical_transformer
from ...sana_core.checkpoint.files import read_checkpoint
from ...sana_core.checkpoint.load import naming
from .detection import canonical_weights, detect
from .model import Sana


def load_model(
    path: str,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    trained_precision: str | None = None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """The transformer in a file of any layout.

    variant: "512", "1024", "2k" or "4k" for a file that does not tell; None: from the file.  dtype: of the weights in
    memory; None: float16 for a file stored in it, else bfloat16, where the device can.  disable_dynamic: the host asks
    for it when it needs a copy that is wholly in memory. Raises CheckpointError.
    """
    with naming(path):
        canonical_transformer(
            read_checkpoint(path, "meta").tensors
        )  # a damaged file or another model is refused before it is read
    tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    tensors, metadata = comfy.utils.convert_old_quants(tensors, metadata=metadata)
    with naming(path):
        model_config = Sana(detect(tensors, metadata, variant, trained_precision))
        weights = canonical_weights(tensors, model_config.unet_config["config"])
    _choose_dtype(model_config, weights, dtype)
    patcher = _patcher(model_config, weights, disable_dynamic)
    patcher.cached_patcher_init = (load_model, (path, variant, dtype, trained_precision))
    return patcher


def _choose_dtype(model_config: Sana, weights: dict[str, Tensor], dtype: torch.dtype | None) -> None:
    """Weight and compute types, by the host's rules for its own models."""
    management, supported = comfy.model_management, model_config.supported_inference_dtypes
    model_config.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    stored = None if model_config.quant_config else comfy.utils.weight_dtype(weights)
    parameters = comfy.utils.calculate_parameters(weights)
    dtype = dtype or management.unet_dtype(model_params=parameters, supported_dtypes=supported, weight_dtype=stored)
    cast_from = None if model_config.quant_config else dtype
    device = management.get_torch_device()
    model_config.set_inference_dtype(dtype, management.unet_manual_cast(cast_from, device, supported), device=device)


def _patcher(model_config: Sana, weights: dict[str, Tensor], disable_dynamic: bool) -> comfy.model_patcher.ModelPatcher:
    model = model_config.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    offload_device = comfy.model_management.unet_offload_device()
    patcher = patcher_class(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, assign=patcher.is_dynamic())
    return patcher
