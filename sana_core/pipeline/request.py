"""What to draw: a frozen description that can be pickled, sent and stored, and the same resolved for one model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..config import SamplingDefaults, TransformerConfig
from ..errors import InputError
from ..geometry import DC_AE_F32
from ..latents import latent_size, nearest_sizes, noise
from ..pictures.control import control_picture
from ..pictures.images import Picture, fitted_mask, fitted_picture, natural_size, read_picture
from ..presets import pag_layer
from ..samplers.guidance import check_pag_layers
from ..samplers.methods import SAMPLERS, check_name, check_sampler, check_shift
from ..styles import style_name, styled
from . import checks
from .start import check_noise, resolve_strength

log = logging.getLogger("sana")
NEGATIVE_MASKS = ("own", "positive")


@dataclass(frozen=True)
class Request:
    """A picture to draw, or a batch. None stands for the model's own default.

    prompt: a text, or several for a batch. negative_prompt: one for all or one per prompt. width, height: pixels,
    multiples of 32; if neither is given, those of latents or image. shift: not for scm, whose grid has none.
    instruction: the text before prompts, never before negative ones: "default", "diffusers", None for no text, or an
    own text. negative_mask: "own" shows the model the negative prompt's own tokens, as diffusers does; "positive" as
    many as the prompt has, with padding, as upstream does. pag_scale: of perturbed-attention guidance, 0 is off,
    upstream's demo takes 2. pag_layers: the blocks it perturbs. seed: None draws another picture each time. seeds:
    one for each picture in place of `seed`, so that each starts from the same noise as alone. latents:
    unit-variance noise (B, 32, h, w) in place of the seed's. step_noise: noise (steps or steps - 1, B, 32, h, w) in
    place of what scm draws in its steps. image: a picture to start from, of which `strength` in (0, 1] is redrawn:
    all of it, or the part where `mask` is bright. control_image: what the ControlNet follows, such as an edge map,
    control_scale times as strongly as trained. Pictures: see `pictures.images.Picture`. batch_size: pictures of
    each prompt. style: one of `styles.STYLES`, put around the prompts and before the negative ones; a resolved request
    has its words in the prompts.
    """

    prompt: str | Sequence[str]
    _: KW_ONLY
    negative_prompt: str | Sequence[str] = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    shift: float | None = None
    instruction: str | None = "default"
    negative_mask: str = "own"
    pag_scale: float = 0.0
    pag_layers: Sequence[int] | None = None
    seed: int | None = None
    seeds: Sequence[int] | None = None
    latents: Tensor | None = None
    step_noise: Tensor | None = None
    image: Picture | None = None
    strength: float | None = None
    mask: Picture | None = None
    control_image: Picture | None = None
    control_scale: float = 1.0
    batch_size: int = 1
    style: str | None = None

    def changed(self, **settings: Any) -> Request:
        """The request with other settings."""
        return Request(**{**{item.name: getattr(self, item.name) for item in fields(self)}, **settings})

    def checked(self) -> Request:
        """The same with every value in its own type. Raises InputError for whatever no model is needed to refuse."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {
            name: value if name not in _TYPES or (value is None and name in _OPTIONAL) else _TYPES[name](name, value)
            for name, value in given.items()
        }
        request = replace(self, **values)
        if request.batch_size < 1:
            raise InputError(f"batch_size is {request.batch_size}, expected at least 1")
        if request.pag_scale < 0.0:
            raise InputError(f"pag_scale is {request.pag_scale}, expected 0 (off) or more, such as 2")
        checks.choice("negative_mask", request.negative_mask, NEGATIVE_MASKS)
        if request.sampler is not None:
            check_name(request.sampler)
        for seed in (request.seed, *(request.seeds or ())):
            if seed is not None:
                noise((0,), seed)  # draws nothing, and refuses a seed out of range
        request._check_size()
        resolve_strength(request.image, request.strength, request.mask)
        return request

    def resolve(self, defaults: SamplingDefaults, config: TransformerConfig) -> Resolved:
        """The request with nothing left open, for a model that is sampled by `defaults`.

        Logs a warning for settings that do not suit the model. Raises InputError for whatever cannot be drawn.
        """
        request = self.checked()
        prompts, negatives = request._styled()
        image = None if request.image is None else read_picture(request.image)
        sampling = request._sampling(defaults, image)
        _check_sampling(sampling, defaults, config)
        count, size = len(prompts) * request.batch_size, (sampling.width, sampling.height)
        if request.seeds is not None and len(request.seeds) != count:
            raise InputError(f"{len(request.seeds)} seeds for {count} pictures: give one for each")
        layers = (pag_layer(config),) if request.pag_layers is None else request.pag_layers
        values: dict[str, Any] = {item.name: getattr(request, item.name) for item in fields(request)}
        values |= {
            **asdict(sampling),
            "prompt": prompts,
            "negative_prompt": negatives,
            "style": None,
            "pag_layers": check_pag_layers(layers, config.depth) if request.pag_scale > 0.0 else layers,
            "seed": random_seed() if request.seed is None else request.seed,
            "strength": resolve_strength(image, request.strength, request.mask),
        }
        if image is not None:
            values["image"] = _each(fitted_picture(image, *size), count, "start pictures")
        if request.mask is not None:
            values["mask"] = _each(fitted_mask(request.mask, *size), count, "masks")
        if request.control_image is not None:
            values["control_image"] = _each(control_picture(request.control_image, *size), count, "control pictures")
        run = Resolved(**values)
        check_noise(run.latents, run.step_noise, run.shape(config), run.sampler, len(run.sigmas()) - 1)
        return run

    def _check_size(self) -> None:
        if self.width is not None and self.height is not None:
            latent_size(self.width, self.height)
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and (side < 1 or nearest_sizes(side) != str(side)):
                raise InputError(
                    f"{name} is {side} pixels, expected a positive multiple of {DC_AE_F32.downscale}; nearest sizes: "
                    f"{nearest_sizes(side)}"
                )

    def _prompts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        prompts = (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)
        if not prompts:
            raise InputError("prompt is an empty list, expected a text or a list of at least one text")
        if isinstance(self.negative_prompt, str):
            return prompts, (self.negative_prompt,) * len(prompts)
        negatives = tuple(self.negative_prompt)
        if len(negatives) != len(prompts):
            raise InputError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one for all, or one for each"
            )
        return prompts, negatives

    def _styled(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        prompts, negatives = self._prompts()
        pairs = [styled(prompt, negative, self.style) for prompt, negative in zip(prompts, negatives)]
        return tuple(prompt for prompt, _ in pairs), tuple(negative for _, negative in pairs)

    def _sampling(self, defaults: SamplingDefaults, image: Image.Image | Tensor | None) -> SamplingDefaults:
        """The model's defaults with the settings that are given in their place."""
        given = {name: getattr(self, name) for name in asdict(defaults)}
        if self.width is None and self.height is None:
            given["width"], given["height"] = natural_size(self.latents, image)
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Replaced(Request):
    """A request whose words a check of prompts has refused. It has harmless ones in their place, the others nowhere."""


@dataclass(frozen=True)
class Resolved(Request):
    """A request with nothing left open, for one model. Made by `Request.resolve`.

    Pictures are tensors at the size of the run: image and control_image (1 or B, 3, H, W), mask (1 or B, 1, H, W),
    float32 in 0..1. strength is None without an image.
    """

    prompt: tuple[str, ...]
    _: KW_ONLY  # the same fields with narrower types, none with a default
    negative_prompt: tuple[str, ...] = field()
    width: int = field()
    height: int = field()
    steps: int = field()
    guidance_scale: float = field()
    sampler: str = field()
    shift: float = field()
    pag_layers: tuple[int, ...] = field()
    seed: int = field()
    seeds: tuple[int, ...] | None = field()
    image: Tensor | None = field()
    mask: Tensor | None = field()
    control_image: Tensor | None = field()

    def resolve(self, defaults: SamplingDefaults, config: TransformerConfig) -> Resolved:
        """Itself. Raises InputError for a model that cannot draw it: of another kind, or with fewer blocks."""
        check_sampler(self.sampler, config)
        if self.pag_scale > 0.0:
            check_pag_layers(self.pag_layers, config.depth)
        return self

    @property
    def count(self) -> int:
        """Pictures of the run."""
        return len(self.prompt) * self.batch_size

    def shape(self, config: TransformerConfig) -> tuple[int, ...]:
        """Of the latents: (B, 32, h, w)."""
        return (self.count, config.latent_channels, *latent_size(self.width, self.height))

    def sigmas(self) -> Tensor:
        """The grid of the run, (N + 1,), or the end of it that redraws a share of a picture."""
        method = SAMPLERS[self.sampler]
        grid = method.sigmas(self.steps, self.shift)
        return grid if self.strength is None else method.tail(grid, self.strength)


# what a value has to be; pictures are checked where they are read
_TYPES: dict[str, Any] = {
    "prompt": checks.texts,
    "negative_prompt": lambda name, value: "" if value is None else checks.texts(name, value),
    "width": checks.whole,
    "height": checks.whole,
    "steps": checks.whole,
    "guidance_scale": checks.number,
    "sampler": checks.text,
    "shift": checks.number,
    "instruction": checks.text,
    "pag_scale": checks.number,
    "pag_layers": checks.blocks,
    "seed": checks.whole,
    "seeds": checks.wholes,
    "latents": checks.noise,
    "step_noise": checks.noise,
    "strength": checks.number,
    "control_scale": checks.number,
    "batch_size": checks.whole,
    "style": lambda name, value: style_name(checks.text(name, value)),
}
_OPTIONAL = {item.name for item in fields(Request) if item.default is None} | {"instruction"}


def random_seed() -> int:
    """A seed of 32 bits, which every tool takes."""
    return torch.Generator(device="cpu").seed() % 2**32


def _check_sampling(sampling: SamplingDefaults, released: SamplingDefaults, config: TransformerConfig) -> None:
    """Raise InputError for settings that cannot be, warn of those that do not suit the model."""
    latent_size(sampling.width, sampling.height)
    warnings = [check_sampler(sampling.sampler, config), check_shift(sampling.shift, released)]
    SAMPLERS[sampling.sampler].sigmas(sampling.steps, sampling.shift)
    for warning in filter(None, warnings):
        log.warning(warning)


def _each(pictures: Tensor, count: int, name: str) -> Tensor:
    if len(pictures) not in (1, count):
        raise InputError(f"{len(pictures)} {name} for {count} pictures: give one for all, or one for each")
    return pictures
