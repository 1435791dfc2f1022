"""What the networks of diffusers and transformers make of the same inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import DC_AE_F32
from . import reference, trajectory
from .setup import Inputs, Outputs, Read, Setup, on_cpu, picture_and_latent


def transformer(setup: Setup, place: torch.device, dtype: torch.dtype, inputs: Inputs) -> Outputs:
    model = reference.transformer(setup, place, dtype)
    return {
        "forward": _predicted(model, inputs, place, dtype),
        "trajectory": trajectory.theirs(model, inputs, setup.sampling, place),
    }


def controlled(setup: Setup, place: torch.device, dtype: torch.dtype, inputs: Inputs) -> Outputs:
    model = reference.transformer(setup, place, dtype)
    control = reference.controlnet(setup, place, dtype)
    given = _inputs(inputs, place, dtype)
    residuals = control(**given, controlnet_cond=inputs.control.to(place, dtype), return_dict=False)[0]
    return {"forward": _predicted(model, inputs, place, dtype, controlnet_block_samples=residuals)}


def _predicted(model: Any, inputs: Inputs, place: torch.device, dtype: torch.dtype, **more: Any) -> Tensor:
    given = _inputs(inputs, place, dtype)
    if model.config.guidance_embeds:  # time in 0..1, and guidance times its factor
        given["timestep"] = given["timestep"] / 1000.0
        more["guidance"] = inputs.guidance.to(place) * model.config.guidance_embeds_scale
    return on_cpu(model(**given, **more, return_dict=False)[0])


def _inputs(inputs: Inputs, place: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "hidden_states": inputs.latent.to(place, dtype),
        "encoder_hidden_states": inputs.text.to(place, dtype),
        "encoder_attention_mask": inputs.mask.long().to(place),
        "timestep": inputs.timestep.to(place),
    }


def autoencoder(setup: Setup, place: torch.device, dtype: torch.dtype) -> Outputs:
    model, scale = reference.autoencoder(setup, place, dtype), DC_AE_F32.scaling_factor
    picture, latent = (tensor.to(place, dtype) for tensor in picture_and_latent())
    encoded, decoded = model.encode(picture, return_dict=False)[0], model.decode(latent / scale, return_dict=False)[0]
    return {"encode": on_cpu(encoded * scale), "decode": on_cpu(decoded)}


def text_encoder(setup: Setup, place: torch.device, dtype: torch.dtype, read: Read) -> Outputs:
    ids, mask = read.ids, read.mask
    if ids is None or mask is None:
        raise InputError("there are no tokens to compare, as our own text encoder did not run")
    model = reference.text_encoder(setup, place, dtype)
    states = model(input_ids=ids.to(place), attention_mask=mask.long().to(place), use_cache=False).last_hidden_state
    return {"states": on_cpu(states)[mask]}
