"""SANA as one of ComfyUI's models: its configuration class, sampling convention and conditioning."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ...sana_core.config import SamplingDefaults, TransformerConfig
from ...sana_core.errors import InputError
from ...sana_core.precision import precision_warning, run_dtypes
from ...sana_core.samplers.denoiser import TIMESTEPS
from ...sana_core.samplers.methods import check_shift
from ...sana_core.samplers.schedules import FIRST_TIME
from .detection import IMAGE_MODEL, canonical_weights, config_tensor
from .gguf import gguf_operations, has_gguf
from .latent_format import SanaLatent
from .prompts import Prompt, padded_context
from .quantised import quantised_operations
from .text_encoder import clip_target
from .transformer import WEIGHTS, ComfySana, WeightsNow

log = logging.getLogger("sana")
CHANGES_NO_PROMPT = "sana_changes_no_prompt"  # attribute of a function of ours that the host calls
SPRINT_SHIFT = 3.6025  # with it the host's "simple" schedule of two steps is Sprint's: 1, 0.7827, 0
GUIDANCE = 4.5  # Sprint's, where the conditioning brings none
# of the 1.6B models: 71 kB per latent cell in 16 bit, as live tensors were counted at 1024 px; larger ones take less
MEMORY_FACTOR = 3.4


class SanaModelSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Flow matching where the first noise level of SANA's grids counts as pure noise.

    Flow-DPM's grid begins at sigma 0.9997 and its solver starts there from noise of unit variance. Whatever begins as
    high does so here, so that a seed gives the same picture as in the released code. (For a shift of 1 or more the grid
    begins at FIRST_TIME or above.) Noise of zeros stands for latents that are noisy already, which the host scales.
    """

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        begins = (sigma >= FIRST_TIME) & noise.any()
        sigma = torch.where(begins, torch.ones_like(sigma), sigma)
        return super().noise_scaling(sigma, noise, latent_image, max_denoise)


class SanaModel(comfy.model_base.BaseModel):
    """The host's wrapper of the diffusion model."""

    def __init__(self, model_config: Sana, device=None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=ComfySana)
        self.model_sampling = SanaModelSampling(model_config)
        if self.get_dtype().itemsize == 1:
            keep_small_weights_exact(self.diffusion_model, self.get_dtype_inference())

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        """The host's, with what the weights are in this step."""
        options = {**(transformer_options or {})}
        options[WEIGHTS] = self._weights_now(options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _weights_now(self, transformer_options: Mapping[str, Any]) -> WeightsNow:
        """What the weights are in this step, and whether other nodes' code runs before the model in it."""
        patcher = self.current_patcher
        if patcher is None:
            return WeightsNow((), stays=False, foreign=True)
        hooks = patcher.current_hooks.hooks if patcher.current_hooks is not None else ()
        state = (patcher.patches_uuid, *((hook.hook_ref, hook.strength) for hook in hooks))
        foreign = other_code_runs(patcher.model_options, transformer_options)
        replaced = any(key.startswith("diffusion_model.") for key in patcher.object_patches)
        stays = not (patcher.is_dynamic() or self.model_lowvram or hooks or foreign or replaced)
        return WeightsNow(state, stays and patcher.loaded_size() >= patcher.model_size(), foreign)

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Mapping[str, Any] | None = None) -> float:
        """Bytes of a step beside the weights. The host's own estimate adds attention among all cells where PyTorch's
        attention is off; SANA's grows with the number of cells alone.
        """
        size = self.get_dtype_inference().itemsize
        cells = input_shape[0] * math.prod(input_shape[2:])
        step = cells * size * 0.01 * self.memory_usage_factor * 2**20
        config = self.diffusion_model.config
        tokens = sum(math.prod(shape[:2]) for shape in (cond_shapes or {}).get("c_crossattn", ()))
        return step + 2 * tokens * config.depth * config.hidden_size * size  # keys and values of the prompts

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Text states and their mask in a form in which prompts of any length run as one batch; Sprint's guidance
        scale.
        """
        out = super().extra_conds(**kwargs)
        if kwargs.get("cross_attn") is not None:
            context, mask = padded_context(kwargs["cross_attn"], kwargs.get("attention_mask"))
            context = context.to(kwargs.get("device"), self.get_dtype_inference())
            options = {} if self.current_patcher is None else self.current_patcher.model_options
            watched = other_code_runs(options, options.get("transformer_options", {}))
            prompt = Prompt(context, mask.to(context.device), watched=watched)
            out["c_crossattn"], out["attention_mask"] = prompt.conds()
        # here a run begins: another node may have replaced the model sampling
        if kwargs.get("prompt_type") == "positive":
            shift = flow_shift(self.model_sampling)
            if warning := check_shift(shift, self.model_config.sampling_defaults):
                log.warning(warning)
        if self.diffusion_model.config.guidance_embed:
            out["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([kwargs.get("guidance", GUIDANCE)]))
        return out


def other_code_runs(model_options: Mapping[str, Any], transformer_options: Mapping[str, Any]) -> bool:
    """Does code of other nodes run between the prompts and the model, which may change what the model is given?"""
    function = model_options.get("sampler_calc_cond_batch_function")
    wrappers = transformer_options.get("wrappers", {})
    return (
        "model_function_wrapper" in model_options
        or (function is not None and not getattr(function, CHANGES_NO_PROMPT, False))
        or any(found for kind in wrappers.values() for found in kind.values())
    )


def keep_small_weights_exact(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Hold norms and modulation tables in `dtype` where the weights are in 8 bits: 3 bits of mantissa are too few for
    them, and they take next to no memory.
    """
    for module in network.modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    comfy.model_management.archive_model_dtypes(network)


def flow_shift(sampling: Any) -> float:
    """The shift of a model's sampling, which another node may have replaced. Raises InputError for one of another kind
    than SANA's.
    """
    time = sampling.timestep(torch.tensor(1.0)).item()
    if abs(time - TIMESTEPS) > 1.0 or not hasattr(sampling, "shift"):
        raise InputError(
            f"another node has given this SANA model the noise schedule of another kind of model (time {time:g} at "
            "pure noise, SANA's is "
            f"{TIMESTEPS}): take that node away, and ModelSamplingSD3 to change the shift"
        )
    return sampling.shift


class Sana(comfy.supported_models_base.BASE):
    """What the host knows of SANA's files; made by its model detection from what `detection.detect` found."""

    unet_config: ClassVar[dict[str, Any]] = {"image_model": IMAGE_MODEL}
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = SanaLatent
    vae_key_prefix: ClassVar[list[str]] = ["vae."]
    text_encoder_key_prefix: ClassVar[list[str]] = ["text_encoders."]

    def __init__(self, unet_config: dict[str, Any]) -> None:
        super().__init__(unet_config)
        config: TransformerConfig = unet_config["config"]
        self.sampling_defaults: SamplingDefaults = self.unet_config.pop("sampling")
        self.latent_format = SanaLatent(self.unet_config.pop("preview", None))
        self.sampling_settings = {
            "shift": SPRINT_SHIFT if config.guidance_embed else self.sampling_defaults.shift,
            "multiplier": 1000,
        }
        self.supported_inference_dtypes = run_dtypes(config)
        self.memory_usage_factor = MEMORY_FACTOR * config.hidden_size / 2240

    def set_inference_dtype(self, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None, device=None) -> None:
        """Called by every loader with the types of weights and computation, which its options or the command line may
        have forced.
        """
        if self.quant_config is not None and dtype.itemsize == 1:
            dtype = manual_cast_dtype or self.supported_inference_dtypes[0]
            log.warning("this file is quantised already: what it holds in 16 bits stays in %s", str(dtype)[6:])
        super().set_inference_dtype(dtype, manual_cast_dtype, device=device)
        if warning := precision_warning(self.unet_config["config"], manual_cast_dtype or dtype):
            log.warning("%s", warning)

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device=None) -> SanaModel:
        if self.custom_operations is None and self.quant_config is not None:
            base = comfy.ops.pick_operations(self.unet_config.get("dtype"), self.manual_cast_dtype, model_config=self)
            layers = quantised_operations(base)
            self.custom_operations = gguf_operations(layers) if has_gguf(state_dict, prefix) else layers
        return SanaModel(self, device=device)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return canonical_weights(state_dict, self.unet_config["config"])

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        stated = config_tensor(state_dict, self.unet_config["config"], self.sampling_defaults)
        return comfy.utils.state_dict_prefix_replace({**state_dict, **stated}, {"": "model.diffusion_model."})

    def clip_target(self, state_dict: dict[str, Tensor] | None = None) -> comfy.supported_models_base.ClipTarget:
        return clip_target(state_dict or {}, self.text_encoder_key_prefix[0])
