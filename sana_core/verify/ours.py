"""What our networks make of the inputs, with fast paths and without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from ..fast import make_fast, use_kernels
from ..kernels.choice import PLAIN, kernels_for
from ..samplers.denoiser import batch_contexts
from ..text.load import load_text_encoder
from ..transformer.controlnet import ControlBranch
from . import products, trajectory
from .setup import PROMPTS, Inputs, Outputs, Read, Setup, on_cpu, picture_and_latent


def _loaded_transformer(setup: Setup, place: torch.device, dtype: torch.dtype) -> Any:
    network = load_transformer(
        setup.files.transformer,
        device=place,
        dtype=dtype,
        variant=setup.variant,
        trained_precision=setup.trained_precision,
    )
    return products.by_numbers(network)


def transformer(setup: Setup, place: torch.device, dtype: torch.dtype, inputs: Inputs) -> Outputs:
    network = _loaded_transformer(setup, place, dtype)
    plain: Outputs = {}
    found: Outputs = {}
    for fast in dict.fromkeys(("off", setup.fast)):
        make_fast(network, fast=fast, device=place, stays=True)
        found = {
            "forward": _predicted(network, inputs, place, dtype),
            "trajectory": trajectory.ours(network, inputs, setup.sampling, place),
        }
        plain = plain or {f"plain {output}": tensor for output, tensor in found.items()}
    if products.by_kernels(network):
        found["kernels"] = _predicted(network, inputs, place, dtype)
    return {**plain, **found}


def controlled(setup: Setup, place: torch.device, dtype: torch.dtype, inputs: Inputs) -> Outputs:
    assert setup.controlnet is not None
    network = _loaded_transformer(setup, place, dtype)
    control = load_controlnet(setup.controlnet, order="diffusers", device=place, dtype=dtype)
    make_fast(network, control, fast=setup.fast, device=place, stays=True)
    branch = ControlBranch(control, inputs.control.to(place, dtype))
    return {"forward": _predicted(network, inputs, place, dtype, [branch])}


def _predicted(network: Any, inputs: Inputs, place: torch.device, dtype: torch.dtype, control: Any = ()) -> Tensor:
    text, mask = batch_contexts([inputs.prompt(index, place, dtype) for index in (0, 1)])
    guidance = inputs.guidance.to(place) if network.config.guidance_embed else None
    latent, timestep = inputs.latent.to(place, dtype), inputs.timestep.to(place)
    return network(latent, timestep, text, mask, guidance=guidance, control=control).float().cpu()


def autoencoder(setup: Setup, place: torch.device, dtype: torch.dtype) -> Outputs:
    network = load_autoencoder(setup.files.autoencoder, device=place, dtype=dtype)
    picture, latent = (tensor.to(place, dtype) for tensor in picture_and_latent())
    use_kernels(network, PLAIN)
    found = {"plain encode": on_cpu(network.encode(picture)), "plain decode": on_cpu(network.decode(latent))}
    _make_fast_alone(network, setup.fast, place)
    return {**found, "encode": on_cpu(network.encode(picture)), "decode": on_cpu(network.decode(latent))}


def _make_fast_alone(network: nn.Module, fast: str, place: torch.device) -> None:
    """As `make_fast` sets up what stands beside a transformer."""
    use_kernels(network, kernels_for(fast))
    if fast != "off" and place.type != "cpu":
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def text_encoder(setup: Setup, place: torch.device, dtype: torch.dtype, read: Read) -> Outputs:
    files = setup.files
    network = load_text_encoder(files.text_encoder, tokenizer=files.tokenizer, device=place, dtype=dtype)
    states, mask = network.encode([PROMPTS[0]], instruction="default")
    other, other_mask = network.encode([PROMPTS[1]])
    text, kept = batch_contexts([(states, mask), (other, other_mask)])
    kept = torch.ones(text.shape[:2], dtype=torch.bool) if kept is None else kept.cpu()
    products.by_numbers(network)
    read.inputs = Inputs(text=text.float().cpu(), mask=kept)
    read.ids, read.mask = ids, mask = _tokens(network)
    return {"states": on_cpu(network(ids.to(place), mask.to(place)))[mask]}


def _tokens(network: Any) -> tuple[Tensor, Tensor]:
    """Ids of both prompts, the first with the instruction, and their mask."""
    rows = [
        network.tokenize([prompt], instruction=instruction)[0].ids
        for prompt, instruction in zip(PROMPTS, ("default", None))
    ]
    ids = torch.zeros(2, max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row), True
    return ids, mask
