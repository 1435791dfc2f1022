"""A few steps with guidance: our solvers, and diffusers' pipelines with their schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..config import SamplingDefaults
from ..samplers.denoiser import make_denoiser
from ..samplers.methods import SAMPLERS
from ..transformer.model import SanaTransformer
from .setup import CELLS, STEPS, Inputs


def ours(network: SanaTransformer, inputs: Inputs, sampling: SamplingDefaults, place: torch.device) -> Tensor:
    """Latents after the last step, on the CPU."""
    dtype, method = network.scale_shift_table.dtype, SAMPLERS[sampling.sampler]
    cond, uncond = (inputs.prompt(index, place, dtype) for index in (0, 1))
    denoise = make_denoiser(
        network,
        cond,
        uncond,
        guidance_scale=sampling.guidance_scale,
        truncate_timestep=method.truncate_timestep,
    )
    noises = [step.to(place) for step in inputs.step_noise()]
    sigmas = method.sigmas(STEPS, sampling.shift)
    return method.sample(denoise, inputs.start.to(place), sigmas, step_noise=noises).cpu()


def theirs(model: Any, inputs: Inputs, sampling: SamplingDefaults, place: torch.device) -> Tensor:
    """The same by SanaPipeline or SanaSprintPipeline."""
    common: dict[str, Any] = {
        "height": CELLS[0] * 32,
        "width": CELLS[1] * 32,
        "latents": inputs.start.to(place),
        "num_inference_steps": STEPS,
        "guidance_scale": sampling.guidance_scale,
        "use_resolution_binning": False,
        "output_type": "latent",
        "return_dict": False,
        "complex_human_instruction": None,
    }
    (cond, _), (uncond, _) = (inputs.prompt(index, place, model.dtype) for index in (0, 1))
    if sampling.sampler == "scm":
        from diffusers.pipelines.sana.pipeline_sana_sprint import SanaSprintPipeline
        from diffusers.schedulers.scheduling_scm import SCMScheduler

        pipeline = _bare(SanaSprintPipeline, model, SCMScheduler())
        text = {"prompt_embeds": cond, "prompt_attention_mask": _mask(cond, cond.shape[1])}
        with _given_noise(inputs.step_noise()):
            return pipeline(**text, **common, intermediate_timesteps=None)[0].cpu()
    from diffusers.pipelines.sana.pipeline_sana import SanaPipeline

    length = max(cond.shape[1], uncond.shape[1])
    text = {
        "prompt_embeds": _padded(cond, length),
        "prompt_attention_mask": _mask(cond, length),
        "negative_prompt_embeds": _padded(uncond, length),
        "negative_prompt_attention_mask": _mask(uncond, length),
        "negative_prompt": None,
    }
    pipeline = _bare(SanaPipeline, model, _scheduler(sampling))
    return pipeline(**text, **common)[0].cpu()


def _scheduler(sampling: SamplingDefaults) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    if sampling.sampler == "flow_euler":
        return FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
    return DPMSolverMultistepScheduler(
        flow_shift=sampling.shift, use_flow_sigmas=True, prediction_type="flow_prediction"
    )


def _bare(kind: Any, model: Any, scheduler: Any) -> Any:
    pipeline = kind(tokenizer=None, text_encoder=None, vae=None, transformer=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _padded(states: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))


def _mask(states: Tensor, length: int) -> Tensor:
    """The mask of states that were padded to `length`."""
    mask = torch.zeros(1, length, dtype=torch.long, device=states.device)
    mask[:, : states.shape[1]] = 1
    return mask


@contextmanager
def _given_noise(noises: list[Tensor]) -> Iterator[None]:
    """diffusers' scheduler for Sprint draws its noise itself: here it gets ours."""
    from diffusers.schedulers import scheduling_scm

    scheduler: Any = scheduling_scm
    kept, left = scheduler.randn_tensor, iter(noises)
    scheduler.randn_tensor = lambda shape, **place: next(left).to(place.get("device"))
    try:
        yield
    finally:
        scheduler.randn_tensor = kept
