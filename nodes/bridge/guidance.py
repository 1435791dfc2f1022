"""Guidance as patches of a MODEL: perturbed-attention guidance, and classifier-free guidance in a part of the steps
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sana_core.errors import InputError
from ...sana_core.presets import pag_layer
from ...sana_core.samplers.denoiser import model_timestep
from ...sana_core.samplers.guidance import adaptive_scale, block_numbers, check_pag_layers, perturbed_attention_guidance
from .model import CHANGES_NO_PROMPT, SanaModel
from .steps import Interval, step_sigma
from .transformer import EXACT_TIMESTEPS, IDENTITY_ATTENTION, with_option


@dataclass
class PerturbedAttention:
    """Perturbed-attention guidance of one patched model, as the two functions that the host calls in each step.

    The host's nodes that change the conditional prediction before guidance (Adaptive Projected Guidance) change what
    comes after it, too: `before` keeps the prediction as the model made it.
    """

    layers: tuple[int, ...]
    scale: float
    decay: float
    interval: Interval
    _kept: tuple[Tensor, Tensor] | None = field(default=None, init=False)  # (input of the step, conditional prediction)

    def before(self, args: dict[str, Any]) -> list[Tensor]:
        """`sampler_pre_cfg_function`."""
        self._kept = (args["input"], args["conds_out"][0])
        return args["conds_out"]

    def after(self, args: dict[str, Any]) -> Tensor:
        """`sampler_post_cfg_function`."""
        kept, self._kept = self._kept, None
        cond = kept[1] if kept and kept[0] is args["input"] else args["cond_denoised"]
        steps = args["model_options"].get("transformer_options", {})
        scale = self._scale(args["model"], args["sigma"], steps)
        if scale <= 0.0 or not self.interval.holds(args["model"], args["sigma"], steps):
            return args["denoised"]
        options = with_option(args["model_options"], IDENTITY_ATTENTION, self.layers)
        (perturbed,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        return perturbed_attention_guidance(args["denoised"], cond, perturbed, scale)

    def _scale(self, model: Any, sigma: Tensor, transformer_options: dict[str, Any]) -> float:
        if self.decay == 0.0:
            return self.scale
        exact = transformer_options.get(EXACT_TIMESTEPS, False) or model.diffusion_model.config.guidance_embed
        timestep = model_timestep(step_sigma(sigma, transformer_options), not exact)
        return adaptive_scale(self.scale, self.decay, float(timestep))


def perturbed_attention(
    model: ModelPatcher, scale: float, layers: str, decay: float, interval: Interval
) -> ModelPatcher:
    """MODEL with PAG. layers: numbers of blocks such as "8" or "8, 9"; empty: the model's own.

    decay: by how much the scale falls per timestep (of 1000). Raises InputError for another model, or blocks that it
    does not have.
    """
    if not isinstance(model.model, SanaModel):
        name = type(model.model).__name__
        raise InputError(
            f"this node patches SANA models, got {name}: load a SANA model, or use ComfyUI's PerturbedAttentionGuidance"
        )
    config = model.model.diffusion_model.config
    chosen = block_numbers(layers) if layers.strip() else [pag_layer(config)]
    guidance = PerturbedAttention(check_pag_layers(chosen, config.depth), scale, decay, interval)
    patched = model.clone()
    options = patched.model_options  # `before` must come first of all, whatever was patched in already
    options["sampler_pre_cfg_function"] = [guidance.before, *options.get("sampler_pre_cfg_function", [])]
    patched.set_model_sampler_post_cfg_function(guidance.after)
    return patched


def guidance_interval(model: ModelPatcher, interval: Interval) -> ModelPatcher:
    """MODEL whose classifier-free guidance works in that part of the sampling alone; outside only the conditional
    prediction is made.
    """
    patched = model.clone()
    inner = patched.model_options.get("sampler_calc_cond_batch_function")

    def calc_cond_batch(args: dict[str, Any]) -> list[Tensor]:
        steps = args["model_options"].get("transformer_options", {})
        guided = interval.holds(args["model"], args["sigma"], steps)
        conds = args["conds"] if guided else args["conds"][:1]
        if inner is not None:
            predictions = inner({**args, "conds": conds})
        else:
            predictions = comfy.samplers.calc_cond_batch(
                args["model"], conds, args["input"], args["sigma"], args["model_options"]
            )
        return (
            predictions if guided else [predictions[0]] * len(args["conds"])
        )  # without a difference there is no guidance

    setattr(calc_cond_batch, CHANGES_NO_PROMPT, inner is None or getattr(inner, CHANGES_NO_PROMPT, False))
    patched.set_model_sampler_calc_cond_batch_function(calc_cond_batch)
    return patched
