"""DC-AE as ComfyUI's VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...sana_core.checkpoint.detect import autoencoder_config, canonical_autoencoder
from ...sana_core.checkpoint.files import read_checkpoint
from ...sana_core.checkpoint.load import check_fit, fitted, naming
from ...sana_core.config import DOWNSCALE, AutoencoderConfig
from ...sana_core.dcae.autoencoder import DCAE
from ...sana_core.errors import InputError

ENCODE_ELEMENTS, DECODE_ELEMENTS = 750, 700  # numbers held at the peak per pixel: 641 and 578 were counted, the rest is workspace
FIRST_LAYERS = ("decoder.conv_in.weight", "decoder.project_in.main.conv.weight")  # diffusers' and MIT's naming


class ComfyDCAE(DCAE):
    """DC-AE on the host's side of the latent scale: raw latents, which the model's latent format scales."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> raw latent (B, 32, H/32, W/32)."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B, 32, h, w) -> (B, 3, 32 h, 32 w), about -1..1."""
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            raise InputError(
                f"this VAE is SANA's DC-AE, which decodes latents (B, {channels}, h, w), got {tuple(latent.shape)}: "
                "they come from another model"
            )
        return self.decoder(latent)


def is_dcae(tensors: Mapping[str, Tensor]) -> bool:
    """DC-AE of the f32c32 kind, in either naming and without prefix; builds with other latents are refused later with a message."""
    first = next((tensors[key] for key in FIRST_LAYERS if key in tensors), None)
    return (
        first is not None
        and first.ndim == 4
        and first.shape[1] == 32
        and any(key.startswith(("decoder.up_blocks.5.0.", "decoder.stages.5.op_list.0.")) for key in tensors)
    )


def init_vae(vae: comfy.sd.VAE, tensors: Mapping[str, Tensor], device: Any = None, dtype: Any = None) -> None:
    """`VAE.__init__` for DC-AE: the host's own, for its simplest kind, gives every attribute a value. Raises CheckpointError."""
    canonical = canonical_autoencoder(tensors)
    config = autoencoder_config(canonical.tensors)
    expected = DCAE(config, device="meta").state_dict()
    weights = fitted(canonical.tensors, expected)
    check_fit(weights, expected, canonical)
    comfy.sd.VAE.__init__(vae, sd={"pixel_space_vae": torch.tensor(1.0)}, device=device, dtype=dtype)
    _set_geometry(vae, config)
    vae.vae_dtype = dtype or comfy.model_management.vae_dtype(vae.device, vae.working_dtypes)
    vae.first_stage_model = ComfyDCAE(config, ops=comfy.ops.disable_weight_init, dtype=vae.vae_dtype).eval().requires_grad_(False)
    comfy.model_management.archive_model_dtypes(vae.first_stage_model)
    offload_device = comfy.model_management.vae_offload_device()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(vae.first_stage_model, load_device=vae.device, offload_device=offload_device)
    vae.first_stage_model.load_state_dict(weights, strict=False, assign=vae.patcher.is_dynamic())
    vae.size = None
    vae.model_size()


def load_vae(path: str) -> comfy.sd.VAE:
    """DC-AE from a file of either naming, as the host's VAE. It is checked before a tensor is read. Raises CheckpointError."""
    with naming(path):
        canonical = canonical_autoencoder(read_checkpoint(path, "meta").tensors)
        expected = DCAE(autoencoder_config(canonical.tensors), device="meta").state_dict()
        check_fit(fitted(canonical.tensors, expected), expected, canonical)
    vae = comfy.sd.VAE.__new__(comfy.sd.VAE)
    init_vae(vae, comfy.utils.load_torch_file(path))
    vae.patcher.cached_patcher_init = (load_vae_patcher, (path,))
    return vae


def load_vae_patcher(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A fresh patcher from the same file, for the host's copies on other devices."""
    return load_vae(path).patcher


def _set_geometry(vae: comfy.sd.VAE, config: AutoencoderConfig) -> None:
    vae.latent_channels, vae.latent_dim, vae.output_channels = config.latent_channels, 2, 3
    vae.downscale_ratio = vae.upscale_ratio = DOWNSCALE
    vae.disable_offload = False
    vae.process_input = lambda image: image * 2.0 - 1.0
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    vae.working_dtypes = [torch.bfloat16, torch.float32]  # float16 overflows
    size = comfy.model_management.dtype_size
    vae.memory_used_encode = lambda shape, dtype: ENCODE_ELEMENTS * shape[2] * shape[3] * size(dtype)
    vae.memory_used_decode = lambda shape, dtype: DECODE_ELEMENTS * shape[2] * shape[3] * DOWNSCALE**2 * size(dtype)
