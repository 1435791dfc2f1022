"""DC-AE as ComfyUI's VAE."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...sana_core.checkpoint.canonical import canonical_autoencoder
from ...sana_core.checkpoint.detect import autoencoder_config
from ...sana_core.checkpoint.fit import check_fit, fitted, naming
from ...sana_core.config import AutoencoderConfig
from ...sana_core.dcae.autoencoder import DCAE
from ...sana_core.errors import InputError
from ...sana_core.fast import use_kernels
from ...sana_core.kernels.choice import kernels_for
from ...sana_core.kit import Kit
from .autoencoder import ComfyDCAE, SanaVAE, decode_memory, encode_memory
from .kit import HostKit
from .previews import fingerprint
from .reading import read_model

log = logging.getLogger("sana")

FIRST_LAYERS = ("decoder.conv_in.weight", "decoder.project_in.main.conv.weight")  # diffusers' and MIT's naming


def is_dcae(tensors: Mapping[str, Tensor]) -> bool:
    """DC-AE of the f32c32 kind, in either naming and without prefix; builds with other latents are refused later with a
    message.
    """
    first = next((tensors[key] for key in FIRST_LAYERS if key in tensors), None)
    return (
        first is not None
        and first.ndim == 4
        and first.shape[1] == 32
        and any(key.startswith(("decoder.up_blocks.5.0.", "decoder.stages.5.op_list.0.")) for key in tensors)
    )


def init_vae(vae: comfy.sd.VAE, tensors: Mapping[str, Tensor], device: Any = None, dtype: Any = None) -> None:
    """`VAE.__init__` for DC-AE. Raises CheckpointError."""
    config, weights = dcae_weights(tensors)
    fill_vae(vae, config, weights, device, dtype)


def dcae_weights(tensors: Mapping[str, Tensor]) -> tuple[AutoencoderConfig, dict[str, Tensor]]:
    """The DC-AE in a state dict of any layout, under the network's own names. Raises CheckpointError if a tensor is
    missing, unexpected or of another shape.
    """
    canonical = canonical_autoencoder(tensors)
    config = autoencoder_config(canonical.tensors)
    expected = DCAE(config, Kit(device="meta")).state_dict()
    weights = fitted(canonical.tensors, expected)
    check_fit(weights, expected, canonical)
    return config, weights


def fill_vae(
    vae: comfy.sd.VAE, config: AutoencoderConfig, weights: dict[str, Tensor], device: Any = None, dtype: Any = None
) -> None:
    """Make a VAE object one of DC-AE. The host's own `__init__`, for its simplest VAE, gives each attribute a value."""
    comfy.sd.VAE.__init__(vae, sd={"pixel_space_vae": torch.tensor(1.0)}, device=device, dtype=dtype)
    vae.__class__ = SanaVAE  # of this object alone; the host's shallow copies of it keep the class
    _set_geometry(vae, config)
    vae.vae_dtype = _usable_dtype(vae, dtype or comfy.model_management.vae_dtype(vae.device, vae.working_dtypes))
    vae.first_stage_model = (
        ComfyDCAE(config, HostKit(layers=comfy.ops.disable_weight_init, device=None, dtype=vae.vae_dtype))
        .eval()
        .requires_grad_(False)
    )
    vae.first_stage_model.fingerprint = fingerprint(weights)
    comfy.model_management.archive_model_dtypes(vae.first_stage_model)
    offload_device = comfy.model_management.vae_offload_device()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=offload_device
    )
    vae.first_stage_model.load_state_dict(weights, strict=False, assign=vae.patcher.is_dynamic())
    vae.size = None
    vae.model_size()


def load_vae(path: str, fast: str = "auto") -> comfy.sd.VAE:
    """DC-AE from a file of either naming, as the host's VAE.  fast: see `sana_core/fast.py`.

    Raises CheckpointError.
    """
    checkpoint = read_model(path)
    with naming(path):
        config, weights = dcae_weights(checkpoint.tensors)
    vae = comfy.sd.VAE.__new__(comfy.sd.VAE)
    fill_vae(vae, config, weights)
    use_kernels(vae.first_stage_model, kernels_for(fast))
    vae.patcher.cached_patcher_init = (load_vae_patcher, (path, fast))
    return vae


def decode_in_tiles(vae: Any, latent: Tensor, tile: int | Literal["auto"], overlap: int | None) -> Tensor:
    """Latent (B, 32, h, w) -> pictures (B, 32 h, 32 w, 3) in 0..1. Raises InputError for another VAE.

    overlap: pixels; None: exact tiles, else blended ones.
    """
    model = getattr(vae, "first_stage_model", None)
    if not isinstance(model, ComfyDCAE):
        raise InputError(
            "SANA VAE Decode (Tiled) decodes with SANA's DC-AE, but the connected VAE is of the kind "
            f"{type(model or vae).__name__}: "
            "connect the VAE of Load SANA, or Load VAE with a dc-ae-f32c32-sana file; for other models use VAE Decode "
            "(Tiled)"
        )
    if tile != "auto":
        memory = decode_memory(model.config, latent.shape, vae.vae_dtype, tile, blended=overlap is not None)
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
    return vae.decode(latent, vae_options={"tile": tile, "overlap": overlap})


def load_vae_patcher(path: str, fast: str = "auto", disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A fresh patcher from the same file, for the host's copies on other devices."""
    return load_vae(path, fast).patcher


def _set_geometry(vae: comfy.sd.VAE, config: AutoencoderConfig) -> None:
    vae.latent_channels, vae.latent_dim, vae.output_channels = config.geometry.channels, 2, 3
    vae.downscale_ratio = vae.upscale_ratio = config.geometry.downscale
    vae.disable_offload = False
    vae.process_input = lambda image: image * 2.0 - 1.0
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    vae.working_dtypes = [torch.bfloat16, torch.float32]
    vae.handles_tiling = True
    vae.memory_used_encode = lambda shape, dtype: encode_memory(config, shape, dtype)
    vae.memory_used_decode = lambda shape, dtype: decode_memory(config, shape, dtype)


def _usable_dtype(vae: comfy.sd.VAE, chosen: torch.dtype) -> torch.dtype:
    """`chosen`, such as by --fp16-vae, unless DC-AE cannot compute in it."""
    if chosen in vae.working_dtypes:
        return chosen
    usable = torch.bfloat16 if comfy.model_management.should_use_bf16(vae.device) else torch.float32
    log.warning(
        "DC-AE overflows in %s, which was chosen for the VAE: it runs in %s",
        *(str(t).removeprefix("torch.") for t in (chosen, usable)),
    )
    return usable
