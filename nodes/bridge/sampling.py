"""sana_core's solvers as ComfyUI's SAMPLER, their grids as SIGMAS, and a whole sampling run in one call."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import node_helpers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from tqdm.auto import tqdm  # pyright: ignore[reportMissingModuleSource]

from ...sana_core.config import SamplingDefaults
from ...sana_core.errors import InputError
from ...sana_core.geometry import DC_AE_F32
from ...sana_core.latents import latent_size, noises, ratio_size
from ...sana_core.pipeline.request import Request
from ...sana_core.samplers.methods import SAMPLERS, check_sampler, check_shift
from ...sana_core.samplers.schedules import MOST_STEPS
from .control import Control
from .model import SanaModel, flow_shift
from .parameters import remember
from .progress import Steps
from .prompts import padded_context
from .steps import at_sigma
from .text_encoder import SanaTokenizer
from .transformer import EXACT_TIMESTEPS, with_option

log = logging.getLogger("sana")
SAMPLER_NAMES = tuple(SAMPLERS)


def make_sampler(name: str) -> comfy.samplers.KSAMPLER:
    """SAMPLER of a solver in `SAMPLER_NAMES`. The noise of scm's steps continues the noise of the seed, as in
    `sana_core`.
    """
    method = SAMPLERS[name]

    def sample(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:
        _check(model.inner_model.inner_model, name)
        draws = islice(noises(x.shape, extra_args.get("seed") or 0), 1, None)
        exact = {**extra_args, "model_options": with_option(extra_args["model_options"], EXACT_TIMESTEPS, True)}
        arguments = extra_args if method.truncate_timestep else exact

        def denoise(x: Tensor, sigma: float) -> Tensor:
            options = at_sigma(arguments["model_options"], sigma)
            return model(x, x.new_full((len(x),), sigma), **{**arguments, "model_options": options})

        shown = Steps(len(sigmas) - 1)
        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

            def report(index: int, sigma: float, x: Tensor, x0: Tensor) -> None:
                bar.update(index + 1 - bar.n)
                shown.update(index + 1)
                if callback is not None:
                    callback({"i": index, "sigma": sigma, "sigma_hat": sigma, "x": x, "denoised": x0})

            return method.sample(denoise, x, sigmas, step_noise=draws, callback=report)

    return comfy.samplers.KSAMPLER(sample)


def make_sigmas(model: ModelPatcher, name: str, steps: int, shift: float | None = None, denoise: float = 1.0) -> Tensor:
    """Grid of a solver: (steps + 1,), descending to 0. shift None: the model's own. denoise below 1: the last steps of
    a longer grid.

    Raises InputError for Sprint's grid on a base SANA model, and if another node has replaced the model's sampling by
    another kind.
    """
    _check(model.model, name, shift)
    if denoise <= 0.0:
        return torch.FloatTensor([])
    shift = flow_shift(model.get_model_object("model_sampling")) if shift is None else shift
    method = SAMPLERS[name]
    return method.tail(method.sigmas(min(int(steps / denoise), MOST_STEPS), shift), denoise)[-(steps + 1) :]


def released(model: ModelPatcher) -> SamplingDefaults:
    """How the model was released to be sampled. Raises InputError for a model of another family."""
    if not isinstance(model.model, SanaModel):
        raise InputError(
            f"this node samples SANA models, got {type(model.model).__name__}: load a SANA model, or use KSampler"
        )
    return model.model.model_config.sampling_defaults


def encode_prompt(clip: Any, text: str, instruction: str | None, positive: list | None = None) -> tuple[list, str]:
    """CONDITIONING, and the exact text that Gemma reads with its token count.

    instruction: None, "default", "diffusers" or an own text. positive: CONDITIONING to whose length the text is cut or
    padded, as upstream does with negative prompts.
    """
    if clip is None:
        raise InputError("there is no CLIP: connect the one of Load SANA, at Load SANA LoRA too if it comes from there")
    if not isinstance(clip.tokenizer, SanaTokenizer):
        raise InputError(
            f"this CLIP ({type(clip.cond_stage_model).__name__}) does not take SANA's instruction: load Gemma-2 with "
            "Load SANA or Load SANA Text Encoder (Gemma), or encode with CLIP Text Encode"
        )
    length = text_length(positive) if positive else None
    tokens = clip.tokenizer.prompt(text, instruction, length)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text, instruction=instruction, kept_length=length))
    count = len(tokens.ids) - tokens.num_padding
    read = f"{count} {'token' if count == 1 else 'tokens'} read by Gemma"
    padding = f", {tokens.num_padding} of them padding" if tokens.num_padding else ""
    cut = "; the end of the prompt was cut off" if tokens.truncated else ""
    return conditioning, f"{tokens.text}\n\n[{read}, {len(tokens.kept)} of at most 300 seen by SANA{padding}{cut}]"


def text_length(conditioning: list) -> int:
    """Tokens that the first entry of a CONDITIONING shows the model."""
    states, options = conditioning[0]
    _, counted = padded_context(states, options.get("attention_mask"))
    return int(counted[0].sum())


def empty_latent(width: int, height: int, batch_size: int = 1) -> dict[str, Any]:
    """LATENT of zeros. Raises InputError for sizes that are not positive multiples of 32."""
    rows, columns = latent_size(width, height)
    samples = torch.zeros(batch_size, 32, rows, columns, device=comfy.model_management.intermediate_device())
    return {"samples": samples, "downscale_ratio_spacial": DC_AE_F32.downscale}


def chosen_size(model: ModelPatcher, size: dict[str, Any], width: int = 0, height: int = 0) -> dict[str, int | None]:
    """Width and height of a request: those in `size`, those of the aspect ratio in it, or the given ones; 0 and None
    are the model's own.
    """
    if "ratio" in size:
        width, height = ratio_size(size["ratio"], released(model).width)
    return {"width": size.get("width", width) or None, "height": size.get("height", height) or None}


def generate(
    model: ModelPatcher,
    clip: Any,
    request: Request,
    *,
    denoise: float = 1.0,
    latent: dict[str, Any] | None = None,
    control: Control | None = None,
    prompt: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A request with one prompt -> LATENT, drawn as the model was released: its own solver, grid, steps and guidance,
    the instruction before the prompt alone.

    denoise: how much of `latent` is redrawn. latent: LATENT to start from, in place of the request's size. control:
    a ControlNet with its picture. prompt: all nodes of the run, for what is written into the picture's file.
    """
    defaults = released(model)
    config = model.model.diffusion_model.config
    run = request.resolve(defaults, config)
    guidance_scale = run.guidance_scale
    latent = latent or empty_latent(run.width, run.height)
    positive = encode_prompt(clip, run.prompt[0], run.instruction)[0]
    negative = encode_prompt(clip, run.negative_prompt[0], None)[0]
    if config.guidance_embed:
        positive = node_helpers.conditioning_set_values(positive, {"guidance": guidance_scale})
        guidance_scale = 1.0
    if control is not None:
        positive, negative = control.applied(positive, negative)
    sigmas = make_sigmas(model, run.sampler, run.steps, request.shift, denoise)
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    height, width = DC_AE_F32.in_pixels(start.shape)
    remember(prompt, replace(run, width=width, height=height))
    samples = comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(start, run.seed, latent.get("batch_index")),
        guidance_scale,
        make_sampler(run.sampler),
        sigmas,
        positive,
        negative,
        start,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=run.seed,
    )
    return {**{key: value for key, value in latent.items() if key != "downscale_ratio_spacial"}, "samples": samples}


def _check(model: Any, sampler: str, shift: float | None = None) -> None:
    """Refuse a sampler that does not suit a SANA model, or warn of it and of a shift. Other models are left alone."""
    if not isinstance(model, SanaModel):
        return
    warnings = [check_sampler(sampler, model.diffusion_model.config)]
    if shift is not None and sampler != "scm":
        warnings.append(check_shift(shift, model.model_config.sampling_defaults))
    for warning in filter(None, warnings):
        log.warning(warning)
