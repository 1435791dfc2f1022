"""The sections of the speed benchmark. A section is a list of cases; a case is one computation in several variants.

A case is made when its turn comes, and its networks are gone when the next one is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench.networks import (
    autoencoder_like,
    diffusers_autoencoder,
    diffusers_transformer,
    text_encoder,
    transformer_like,
)
from bench.paired import Run
from bench.plans import FULL, Plan
from bench.roofline import Kernel, decode_kernels, step_kernels
from bench.variants import (
    PADDED,
    Lazily,
    cpu_steps,
    cuda_steps,
    diffusers_loop,
    graphed,
    make_step,
    own_loop,
)
from sana_core.config import POSITIONS, AutoencoderConfig, TransformerConfig
from sana_core.geometry import DC_AE_F32
from sana_core.samplers.schedules import flow_euler_sigmas

SHIFT = 3.0
POSITION_OF = {2048: POSITIONS["2k"], 4096: POSITIONS["4k"]}  # the models of these sizes have position tables
INSTRUCTION = 200  # about as many tokens stand before a prompt
DIFFUSERS_TILE, DIFFUSERS_STRIDE = 512, 448  # its defaults


@dataclass(frozen=True, kw_only=True)
class Case:
    """One computation. variants: the first is the reference.

    largest_error: of a result, see `paired.difference`; None where results differ by intention.  kernels: what a fused
    implementation does at the least, for the roofline.  blocks: of the transformer, for times per block.
    """

    section: str
    name: str
    variants: dict[str, Run]
    largest_error: float | None
    kernels: tuple[Kernel, ...] = ()
    blocks: int | None = None


Maker = Callable[[], Case]
# bfloat16 alone moves diffusers' results by 0.03 (60 blocks)
STEP_ERROR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
LOOP_ERROR = {torch.float32: 1e-3, torch.bfloat16: 1e-1}  # guidance multiplies the errors of a step


def sections(plan: Plan) -> dict[str, list[Maker]]:
    """All sections of a plan but ComfyUI's, which is in `ksampler.py`."""
    networks = {
        name: [
            partial(step_case, plan, name, pixels, dtype, tokens)
            for tokens, pixels, dtype in product(plan.tokens, plan.pixels, plan.dtypes)
        ]
        for name in plan.networks
    }
    first = next(iter(plan.networks))
    decodes = [
        partial(decode_case, plan, name, config, pixels)
        for name, (config, sizes) in plan.autoencoders.items()
        for pixels in sizes
    ]
    tiled = [partial(tiled_case, plan, pixels) for pixels in plan.tiled]
    whole = [partial(end_to_end_case, plan, first)] if plan.text else []
    return {
        **networks,
        "loop": [partial(loop_case, plan, first, dtype) for dtype in plan.dtypes],
        "decode": decodes + tiled,
        **({"Gemma": [partial(text_case, plan)], "end to end": whole} if plan.text else {}),
    }


def sized(config: TransformerConfig, pixels: int) -> TransformerConfig:
    return replace(config, position=POSITION_OF.get(pixels))


def reference(plan: Plan, config: TransformerConfig, pixels: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return diffusers_transformer(config, pixels // DC_AE_F32.downscale, plan.device, dtype)


def step_case(plan: Plan, section: str, pixels: int, dtype: torch.dtype, tokens: int) -> Case:
    """One step with guidance."""
    config = sized(plan.network(section), pixels)
    step = make_step(config, pixels, tokens, plan.device, dtype)
    make = partial(cuda_steps, compile_too=pixels <= plan.compiled) if plan.device.type == "cuda" else cpu_steps
    return Case(
        section=section,
        name=f"a step, {pixels} px, {words(dtype)}, {tokens} tokens" + blocks_said(plan),
        variants=make(reference(plan, config, pixels, dtype), step),
        largest_error=STEP_ERROR[dtype],
        kernels=step_kernels(config, pixels, tokens, dtype.itemsize),
        blocks=config.depth,
    )


def loop_case(plan: Plan, network: str, dtype: torch.dtype) -> Case:
    """All steps of a picture, the prompts' keys and values included."""
    pixels, steps = plan.loop_pixels, plan.loop_steps
    config = sized(plan.network(network), pixels)
    theirs = reference(plan, config, pixels, dtype)
    step = make_step(config, pixels, plan.tokens[0], plan.device, dtype)
    sigmas = flow_euler_sigmas(steps, SHIFT).tolist()
    return Case(
        section="loop",
        name=f"{network}, {steps} steps, {pixels} px, {words(dtype)}, {plan.tokens[0]} tokens" + blocks_said(plan),
        variants={
            "diffusers": diffusers_loop(theirs, step, sigmas),
            "sana_core": own_loop(transformer_like(theirs, config), step, sigmas, replay=plan.device.type == "cuda"),
        },
        largest_error=LOOP_ERROR[dtype],
    )


def decode_case(plan: Plan, name: str, config: AutoencoderConfig, pixels: int) -> Case:
    """A picture at once. The pipeline has no graph of this; one is measured to see what it would bring."""
    dtype = plan.decode_dtype
    theirs, latent = diffusers_decoder(plan, config), latents(plan, pixels)
    off, auto = (partial(autoencoder_like(theirs, config, fast).decode, latent) for fast in ("off", "auto"))
    decode = partial(decoded, theirs, latent)
    variants: dict[str, Run] = {"diffusers": decode}
    if plan.device.type == "cuda":
        last = diffusers_decoder(plan, config).to(memory_format=torch.channels_last)
        last.load_state_dict(theirs.state_dict())
        variants |= {
            "diffusers, channels last": partial(decoded, last, latent.to(memory_format=torch.channels_last)),
            "sana_core, fast=off": off,
            "sana_core, fast=auto": auto,
            "sana_core, fast=auto, CUDA graph": Lazily(lambda: graphed(auto)),
        }
    else:
        variants["sana_core"] = auto
    return Case(
        section="decode",
        name=f"{name}, {pixels} px, {words(dtype)}",
        variants=variants,
        largest_error=STEP_ERROR[dtype],
        kernels=decode_kernels(pixels, dtype.itemsize) if config == FULL else (),
    )


def tiled_case(plan: Plan, pixels: int) -> Case:
    """In tiles. Those of diffusers are blended and give another picture."""
    config = next(iter(plan.autoencoders.values()))[0]
    theirs, latent = diffusers_decoder(plan, config), latents(plan, pixels)
    ours = autoencoder_like(theirs, config)
    tile, stride = (min(size, pixels * 7 // 8) for size in (DIFFUSERS_TILE, DIFFUSERS_STRIDE))
    theirs.enable_tiling(tile, tile, stride, stride)
    return Case(
        section="decode",
        name=f"DC-AE in tiles, {pixels} px, {words(plan.decode_dtype)}",
        variants={
            f"diffusers, tiles of {tile}": partial(decoded, theirs, latent),
            **{f"sana_core, tiles of {side}": partial(ours.decode, latent, tile=side) for side in plan.tiles},
        },
        largest_error=None,
    )


def text_case(plan: Plan) -> Case:
    """The prompt behind SANA's instruction and the empty negative prompt. diffusers pads them to the longest that there
    may be, sana_core does not.
    """
    both = text_runs(plan)
    name = f"Gemma-2, {INSTRUCTION + plan.tokens[0]} tokens and 1, {words(plan.dtypes[-1])}"
    return Case(section="Gemma", name=name, variants=both, largest_error=LOOP_ERROR[plan.dtypes[-1]])


def end_to_end_case(plan: Plan, network: str) -> Case:
    """Both prompts, all steps, the picture. With random weights each part gets inputs of its own."""
    loop = loop_case(replace(plan, loop_steps=plan.end_to_end_steps), network, plan.dtypes[-1])
    name, (config, _) = next(iter(plan.autoencoders.items()))
    decode = decode_case(plan, name, config, plan.loop_pixels)
    auto = "sana_core, fast=auto" if plan.device.type == "cuda" else "sana_core"
    text = text_runs(plan)
    parts = {who: (text[who], loop.variants[who]) for who in text}
    return Case(
        section="end to end",
        name=loop.name,
        variants={
            "diffusers": partial(one_after_another, *parts["diffusers"], decode.variants["diffusers"]),
            "sana_core": partial(one_after_another, *parts["sana_core"], decode.variants[auto]),
        },
        largest_error=STEP_ERROR[plan.decode_dtype],
    )


def text_runs(plan: Plan) -> dict[str, Run]:
    """The last result is that of the prompt's own tokens."""
    assert plan.text is not None
    encoder = text_encoder(plan.text, plan.device, plan.dtypes[-1])
    generator, length = torch.Generator().manual_seed(0), INSTRUCTION + plan.tokens[0]
    ids = torch.randint(5, plan.text.vocab_size, (1, length), generator=generator).to(plan.device)
    start = ids.new_full((1, 1), 2)

    def padded(tokens: Tensor, to: int) -> Tensor:
        mask = torch.arange(to, device=plan.device)[None] < tokens.shape[1]
        return encoder.model(
            input_ids=torch.nn.functional.pad(tokens, (0, to - tokens.shape[1])), attention_mask=mask, use_cache=False
        ).last_hidden_state[:, : tokens.shape[1]]

    return {
        "diffusers": lambda: (padded(start, PADDED), padded(ids, INSTRUCTION + PADDED))[1],
        "sana_core": lambda: (encoder(start), encoder(ids))[1],
    }


def one_after_another(*runs: Run) -> Tensor:
    return [run() for run in runs][-1]


def diffusers_decoder(plan: Plan, config: AutoencoderConfig) -> Any:
    torch.manual_seed(0)
    return diffusers_autoencoder(config, plan.device, plan.decode_dtype)


def decoded(theirs: Any, latent: Tensor) -> Tensor:
    return theirs.decode(latent / DC_AE_F32.scaling_factor).sample


def latents(plan: Plan, pixels: int) -> Tensor:
    side = pixels // DC_AE_F32.downscale
    noise = torch.randn(1, DC_AE_F32.channels, side, side, generator=torch.Generator().manual_seed(pixels))
    return noise.to(plan.device, plan.decode_dtype)


def words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def blocks_said(plan: Plan) -> str:
    return "" if plan.blocks is None else f", {plan.blocks} block{'s' * (plan.blocks > 1)}"
