"""Memory of quantised networks, counted on the meta device: `memory.py` prints it.

A layer holds its weight as it is stored. To compute with it, the library makes a 16-bit copy of this one weight; a
kernel of comfy-kitchen does without, and rounds the input of the layer to 8 bits. Both are counted, beside 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks import AUTOENCODERS, autoencoder, transformer
from bench.steps import DTYPE, kept_step, own_step
from sana_core.config import POSITIONS, TextConfig, TransformerConfig
from sana_core.live_memory import LiveMemory, weight_bytes
from sana_core.presets import BASE_06, BASE_16, NETWORKS
from sana_core.quantised import layers as quantised_layers
from sana_core.quantised.formats import FORMATS, Format, Shape, Side
from sana_core.quantised.layers import QuantisedWeight, hold_quantised
from sana_core.quantiser.making import RECIPES, fitting
from sana_core.quantiser.policy import chosen_format
from sana_core.text.gemma import GemmaTextEncoder

META = torch.device("meta")
TOKENS_SENT = 500  # to the text encoder: the instruction and a long prompt
TILE = 1024  # of the autoencoder
RESIDENT, IN_TURN, ALONE = "all resident", "one after another", "transformer alone"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is in memory together, and the most that it may take quantised.

    text: format of Gemma-2, of which the embedding is fp8; None: without it.  kept: the keys and values of the prompts
    are kept from step to step.  limit: bytes; None: told as it is.
    """

    name: str
    config: TransformerConfig
    pixels: int
    format: str
    text: str | None
    how: str
    kept: bool = True
    limit: float | None = None


SMALL = Plan(name="1.6B", config=BASE_16, format="int8", pixels=1024, text="fp8", how=RESIDENT, limit=5.8e9)
LARGE = Plan(
    name="4.8B", config=NETWORKS["SANA-1.5 4.8B"], format="int8", pixels=1024, text=None, how=ALONE, kept=False,
    limit=5.0e9,
)  # fmt: skip
FOUR_K = Plan(
    name="1.6B", config=replace(BASE_16, position=POSITIONS["4k"]), format="int8", pixels=4096, text=None, how=IN_TURN,
    kept=False, limit=3.2e9,
)  # fmt: skip
PLANS = (
    SMALL,
    replace(SMALL, how=IN_TURN, limit=2.7e9),
    replace(SMALL, name="0.6B", config=BASE_06, text="nvfp4", limit=3.7e9),
    LARGE,
    replace(LARGE, kept=True, limit=None),
    FOUR_K,
    replace(FOUR_K, kept=True, limit=None),
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network: its weights, and what a run of it holds beside them. Bytes."""

    name: str
    weights: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A plan in 16 bits, quantised, and quantised with kernels: the stages of each, and bytes altogether."""

    plan: Plan
    stages: tuple[Stage, ...]
    bf16: int
    quantised: int
    kernels: int

    @property
    def missed(self) -> bool:
        return self.plan.limit is not None and self.quantised > self.plan.limit

    def line(self) -> str:
        plan = self.plan
        what = plan.format + (f", Gemma {plan.text}" if plan.text else "")
        how = plan.how + (", prompts kept" if plan.kept else "")
        sums = "".join(f"{size / 1e9:12.2f}" for size in (self.bf16, self.quantised, self.kernels))
        limit = "" if plan.limit is None else f"{plan.limit / 1e9:10.1f}"
        return f"{plan.name:5} {plan.pixels:6}  {what:18} {how:32}{sums}{limit}"

    def parts(self) -> list[str]:
        """The stages of the quantised plan, a line each."""
        return [
            f"    {stage.name:9} weights {stage.weights / 1e6:6.0f} MB, activations {stage.activations / 1e6:6.0f} MB"
            for stage in self.stages
        ]


HEADER = (
    "model pixels  quantised to       in memory                            bf16 GB  quantised GB  kernels GB  limit GB"
)


def count_all() -> Iterator[Counted]:
    for plan in PLANS:
        yield count(plan)


@torch.no_grad()
def count(plan: Plan) -> Counted:
    stages = _stages(plan)
    with kernels():
        with_kernels = _stages(plan, kernels=True)
    plain = _stages(replace(plan, format="bf16", text=plan.text and "bf16"))
    bf16, own, fast = (_together(found, plan.how) for found in (plain, stages, with_kernels))
    return Counted(plan=plan, stages=stages, bf16=bf16, quantised=own, kernels=fast)


def _together(stages: tuple[Stage, ...], how: str) -> int:
    if how == RESIDENT:
        return sum(stage.weights for stage in stages) + max(stage.activations for stage in stages)
    return max(stage.weights + stage.activations for stage in stages)


def _stages(plan: Plan, *, kernels: bool = False) -> tuple[Stage, ...]:
    step = _step(plan.config, plan.pixels, plan.format, plan.kept, kernels)
    if plan.how == ALONE:
        return (step,)
    text = (_text(plan.text, kernels),) if plan.text else ()
    return (*text, step, _decode(plan.pixels, plan.how == RESIDENT))


@cache
def _step(config: TransformerConfig, pixels: int, form: str, kept: bool, kernels: bool) -> Stage:
    """A step with guidance. kernels: which layers compute does not follow from the other arguments."""
    network = transformer(config, META, DTYPE)
    if form != "bf16":
        quantised(network, form)
    return _counted("step", network, partial((kept_step if kept else own_step), network, pixels // 32, META))


@cache
def _text(form: str, kernels: bool) -> Stage:
    encoder = GemmaTextEncoder(TextConfig()).to(DTYPE)
    if form != "bf16":
        quantised(encoder.model, form, embedding="fp8")
    tokens = torch.zeros(1, TOKENS_SENT, dtype=torch.long, device=META)
    return _counted("text", encoder, lambda: encoder(tokens, tokens == 0))


@cache
def _decode(pixels: int, whole: bool) -> Stage:
    """whole: with the encoder, as the pipeline loads the autoencoder."""
    network = autoencoder(AUTOENCODERS["DC-AE 1.0, 1.1"], META, DTYPE)
    latent = torch.zeros(1, 32, pixels // 32, pixels // 32, dtype=DTYPE, device=META)
    stage = _counted("decode", network, lambda: network.decode(latent, tile=TILE))
    return stage if whole else replace(stage, weights=weight_bytes(network.decoder))


def _counted(name: str, network: nn.Module, run: Callable[[], Any]) -> Stage:
    with LiveMemory() as meter:
        run()
    return Stage(name=name, weights=weight_bytes(network), activations=meter.peak_bytes)


def quantised(network: nn.Module, form: str, embedding: str | None = None) -> None:
    """Put quantised layers into a network on the meta device, as `quantise_file` chooses them. form: a format without
    rotation.
    """
    tensors, layers = dict(network.state_dict()), {}
    for key in list(tensors):
        chosen = chosen_format(key, form, embedding)
        if chosen is not None:
            shape = tuple(tensors[key].shape)
            found = FORMATS[RECIPES[fitting(chosen, shape[1])].format]
            layer = key.removesuffix(".weight")
            layers[layer] = found
            tensors |= {f"{layer}.{name}": part for name, part in stored(found, shape).items()}
    hold_quantised(network, layers, tensors)


def stored(form: Format, shape: Shape) -> dict[str, Tensor]:
    """What is stored of a weight (N, K), on the meta device; the largest of the shapes that side tensors may have."""
    parts = {"weight": torch.empty(form.stored_shape(shape), dtype=form.stored[0], device=META)}
    return parts | {name: _side(side, form, shape) for name, side in form.required.items()}


def _side(side: Side, form: Format, shape: Shape) -> Tensor:
    largest = max(side.shapes(shape, form.settings), key=math.prod)
    return torch.empty(largest, dtype=side.stored[0], device=META)


@contextmanager
def kernels() -> Iterator[None]:
    """Inside, quantised layers compute as a kernel does: with the weight as it is stored, and the input in 8 bits."""

    def linear(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
        rounded = torch.empty(x.shape, dtype=torch.int8, device=x.device)
        return x.new_empty(*rounded.shape[:-1], weight.shape[0])

    before = quantised_layers.kitchen.linear
    quantised_layers.kitchen.linear = linear
    try:
        yield
    finally:
        quantised_layers.kitchen.linear = before
