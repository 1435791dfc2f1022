"""SANA's ControlNet as one of ComfyUI's: stock nodes load, apply, schedule and chain it.

Others hand residuals to the model. Upstream's order needs what the model's first block computes, so this one hands
itself over, and runs inside the model's forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.utils
import node_helpers
import torch
from torch import Tensor

from ...sana_core.checkpoint.canonical import canonical_controlnet
from ...sana_core.checkpoint.detect import controlnet_config, has_embedders
from ...sana_core.checkpoint.fit import check_fit, fitted, naming
from ...sana_core.errors import InputError
from ...sana_core.geometry import DC_AE_F32
from ...sana_core.kit import Kit
from ...sana_core.pictures.control import control_picture
from ...sana_core.transformer.controlnet import ControlBranch, SanaControlNet
from .kit import host_kit
from .latent_format import SanaLatent
from .links import check_links
from .model import SanaModel, keep_small_weights_exact
from .reading import read_model
from .steps import step_sigma
from .transformer import CONTROL


class SanaControl(comfy.controlnet.ControlNet):
    """A ControlNet with the picture, strength and time range that Apply ControlNet gave it."""

    control_model: SanaControlNet

    def __init__(self, network: SanaControlNet | None, load_device: Any = None) -> None:
        super().__init__(
            network, compression_ratio=1, latent_format=SanaLatent(), load_device=load_device, extra_conds=[]
        )
        self.base: SanaModel | None = None  # what is being sampled

    def copy(self) -> SanaControl:
        """Called by the nodes that apply it; the network is shared."""
        twin = SanaControl(None, load_device=self.load_device)
        twin.control_model, twin.control_model_wrapped = self.control_model, self.control_model_wrapped
        self.copy_to(twin)
        return twin

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Called before sampling. Raises InputError if the model is another one than this ControlNet was made for."""
        if not isinstance(model, SanaModel):
            kind = type(model).__name__
            raise InputError(
                f"a SANA ControlNet is applied to a model that is not SANA ({kind}): choose the ControlNet of that "
                "model"
            )
        self.control_model.check_base(model.diffusion_model.config)
        self.base = model
        super().pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """Called after sampling."""
        self.base = None
        super().cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Called before every prediction: this ControlNet and those before it, for `ComfySana`."""
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if not self._acts_at(t, transformer_options):
            return previous
        latent = comfy.controlnet.broadcast_image_to(self._hint(x_noisy), len(x_noisy), batched_number)
        entries: dict[str, Any] = {"input": [], "middle": [], "output": [], **(previous or {})}
        return {
            **entries,
            CONTROL: (*entries.get(CONTROL, ()), ControlBranch(self.control_model, latent, self.strength)),
        }

    def _acts_at(self, sigma: Tensor, transformer_options: dict[str, Any]) -> bool:
        """Is a step at `sigma` (B,) in the range that Apply ControlNet gave it?"""
        if self.timestep_range is None or tuple(self.timestep_percent_range) == (0.0, 1.0):
            return True
        high, low = self.timestep_range
        return low <= step_sigma(sigma, transformer_options) <= high

    def _hint(self, x: Tensor) -> Tensor:
        """The control picture as latents of the size and on the device of x, kept for the next steps."""
        if self.cond_hint is None or self.cond_hint.shape[-2:] != x.shape[-2:]:
            if self.vae is None:
                raise InputError("SANA's ControlNet works on latents: connect the VAE of SANA to Apply ControlNet")
            if (self.vae.latent_channels, self.vae.spacial_compression_encode()) != (x.shape[1], DC_AE_F32.downscale):
                raise InputError(
                    "the VAE at Apply ControlNet is not SANA's: connect DC-AE f32c32, as for decoding the picture"
                )
            height, width = DC_AE_F32.in_pixels(x.shape)
            latent = self._encode(control_picture(self.cond_hint_original[:, :3], width, height))
            self.cond_hint = self.latent_format.process_in(latent).to(x)
        return self.cond_hint

    def _encode(self, picture: Tensor) -> Tensor:
        """A control picture (B, 3, H, W) by the VAE. That may push the models in use out; they come back, with the
        LoRAs of their hooks.
        """
        patcher = self.base.current_patcher if self.base else None
        hooks = patcher.current_hooks if patcher else None
        loaded = comfy.model_management.loaded_models(only_currently_used=True)
        latent = self.vae.encode(picture.movedim(1, -1))
        comfy.model_management.load_models_gpu(loaded)
        if patcher and hooks:
            patcher.apply_hooks(hooks, force_apply=True)
        return latent


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a ControlNet is applied with.  image: (1 or B, H, W, 3) in 0..1."""

    network: Any
    image: Tensor
    vae: Any
    strength: float = 1.0

    @classmethod
    def of(cls, network: Any, image: Tensor | None, vae: Any, strength: float) -> Control | None:
        """None without a network: a loader that is bypassed leaves the rest. Raises InputError if another part is
        missing.
        """
        check_links(control_net=network, control_image=image, vae=vae)
        if network is None:
            return None
        if image is None or vae is None:
            missing = " and ".join(name for name, part in (("control_image", image), ("vae", vae)) if part is None)
            raise InputError(f"a ControlNet needs a picture to follow and SANA's VAE: connect {missing}")
        return cls(network=network, image=image, vae=vae, strength=strength)

    def applied(self, *conditionings: list) -> list[list]:
        """Each CONDITIONING with one and the same ControlNet, as Apply ControlNet makes them."""
        if self.strength == 0.0:
            return list(conditionings)
        control = self.network.copy().set_cond_hint(self.image.movedim(-1, 1), self.strength, (0.0, 1.0), vae=self.vae)
        values = {"control": control, "control_apply_to_uncond": False}
        return [node_helpers.conditioning_set_values(conditioning, values) for conditioning in conditionings]


def load_control(path: str, order: str = "upstream") -> SanaControl:
    """A ControlNet file of any layout. order: "upstream" or "diffusers". Raises SanaError."""
    checkpoint = read_model(path)
    with naming(path):
        return build_control(checkpoint.tensors, order)


def build_control(
    tensors: Mapping[str, Tensor], order: str = "upstream", model_options: Mapping[str, Any] | None = None
) -> SanaControl:
    """The ControlNet in a state dict of any layout. model_options: the host's, with `dtype` and `custom_operations`.
    Raises SanaError.
    """
    options, management = model_options or {}, comfy.model_management
    canonical = canonical_controlnet(tensors)
    with naming("ControlNet", canonical.original_key):
        config = controlnet_config(canonical.tensors)
    make = partial(SanaControlNet, config, embedders=has_embedders(canonical.tensors), order=order)
    expected = make(Kit(device="meta")).state_dict()
    weights = fitted(canonical.tensors, expected)
    check_fit(weights, expected, canonical)
    operations = (
        options.get("custom_operations") or comfy.ops.manual_cast
    )  # the weights are cast to the type the model computes in
    dtype = options.get("dtype") or _stored_dtype(weights)
    network = make(host_kit(operations, management.unet_offload_device(), dtype))
    if dtype.itemsize == 1:
        keep_small_weights_exact(network, torch.float32)
    control = SanaControl(network.eval().requires_grad_(False), load_device=management.get_torch_device())
    network.load_state_dict(weights, strict=False, assign=control.control_model_wrapped.is_dynamic())
    return control


def _stored_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Number type of the weights in memory, by the host's rules; float16 only for a file stored in it."""
    stored = comfy.utils.weight_dtype(weights)
    supported = [torch.float16 if stored == torch.float16 else torch.bfloat16, torch.float32]
    parameters = comfy.utils.calculate_parameters(weights)
    return comfy.model_management.unet_dtype(model_params=parameters, supported_dtypes=supported, weight_dtype=stored)
