"""Prompt to picture in plain PyTorch: text encoder, transformer in a sampler's loop, autoencoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

import torch
from PIL import Image
from torch import Tensor, nn

from ..config import SamplingDefaults
from ..dcae.autoencoder import DCAE
from ..dcae.memory import auto_tile
from ..errors import InputError
from ..pictures.images import Picture, mask_latents, picture_tensor, to_pil
from ..samplers.denoiser import EncodedText, make_denoiser
from ..samplers.methods import SAMPLERS
from ..samplers.types import Denoise, StepCallback
from ..text.gemma import GemmaTextEncoder
from ..transformer.controlnet import ControlBranch, SanaControlNet
from ..transformer.model import SanaTransformer
from ..transformer.replay import Replay, is_heard, obstacle
from .checks import choice
from .memory import with_smaller_tiles
from .offload import on_device
from .request import Request, Resolved
from .start import Start, start_noise

log = logging.getLogger("sana")
Texts: TypeAlias = tuple[EncodedText, EncodedText | None]  # prompts; negative prompts, if guidance uses them
Prompt: TypeAlias = str | Sequence[str] | Request
Negative: TypeAlias = str | Sequence[str] | None
OUTPUTS = ("pil", "latent", "tensor")
OFFLOADED_TILE = 1024  # pixels; with offload no larger tiles, so that the autoencoder's turn does not set the peak


@dataclass(frozen=True, kw_only=True)
class Result:
    """One picture of a stream. request: as it was resolved, seed included. index: which picture of that request.
    latent: (32, h, w), float32, on the CPU.
    """

    request: Resolved
    index: int
    latent: Tensor
    picture: Image.Image


@dataclass(kw_only=True, repr=False)
class SanaPipeline:
    """The networks, the device they run on, and how the model is sampled by default. Made by `load_pipeline`.

    fast: "off", "auto" or "max", see `fast.py`.

    offload: the networks are on the CPU, and each is on the device only for its turn: the text encoder, the transformer
    with its ControlNet for all steps, the autoencoder. The peak is that of the largest turn, weights included. For 1.6B
    in bfloat16 with guidance, counted by bench/memory.py: text encoder 5.3 GB, transformer 3.5 GB at 1024 px and 4.8 GB
    at 4096 px (3.2 of weights, 0.1 of keys and values of the prompts, 1.5 for a step), autoencoder 2.0 GB (0.6 of
    weights, 1.3 for 1024 px at once or 1.0 for 4096 px in tiles).
    """

    transformer: SanaTransformer
    autoencoder: DCAE
    text_encoder: GemmaTextEncoder
    controlnet: SanaControlNet | None = None
    defaults: SamplingDefaults
    device: torch.device
    offload: bool = False
    fast: str = "auto"

    @overload
    def __call__(
        self, prompt: Prompt, negative_prompt: Negative = None, *, output: Literal["pil"] = "pil", **settings: Any
    ) -> list[Image.Image]: ...

    @overload
    def __call__(
        self, prompt: Prompt, negative_prompt: Negative = None, *, output: Literal["latent", "tensor"], **settings: Any
    ) -> Tensor: ...

    @overload
    def __call__(
        self, prompt: Prompt, negative_prompt: Negative = None, *, output: str, **settings: Any
    ) -> list[Image.Image] | Tensor: ...

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt,
        negative_prompt: Negative = None,
        *,
        output: str = "pil",
        callback: StepCallback | None = None,
        **settings: Any,
    ) -> list[Image.Image] | Tensor:
        """Draw a request: a prompt with settings, or a `Request` with changes on top.

        settings: the fields of `Request`: width, height, steps, guidance_scale, sampler, shift, instruction,
        negative_mask, pag_scale, pag_layers, seed, seeds, latents, step_noise, image, strength, mask, control_image,
        control_scale, batch_size. None stands for the model's own default. callback: called after each step with
        (step, sigma, latents after the step, predicted x0).

        Returns PIL pictures, or with output="tensor" (B, 3, H, W) in 0..1, with output="latent" (B, 32, h, w) of about
        unit variance, both float32. Raises InputError before anything is drawn.
        """
        choice("output", output, OUTPUTS)
        if callback is not None and not callable(callback):
            raise InputError(f"callback is {type(callback).__name__}, expected a function")
        run = self.resolve(prompt, negative_prompt, **settings)
        texts = self.encode_text(run)
        start = self.start(run)
        latents = self.sample(run, texts, start, callback)
        return latents if output == "latent" else self.decode(latents, pil=output == "pil")

    def stream(self, requests: Iterable[Prompt], *, callback: StepCallback | None = None) -> Iterator[Result]:
        """Draw one request after another, and yield each picture as it is done.

        Requests are resolved one by one as they are reached; to refuse all errors first, give resolved ones.
        """
        if isinstance(requests, (str, Request)):
            raise InputError("stream takes several requests: give a list, also for one")
        for request in requests:
            run = self.resolve(request)
            latents = self(run, output="latent", callback=callback)
            pictures = self.decode(latents)
            for index, (latent, picture) in enumerate(zip(latents, pictures)):
                yield Result(request=run, index=index, latent=latent.cpu(), picture=picture)

    def resolve(self, prompt: Prompt, negative_prompt: Negative = None, **settings: Any) -> Resolved:
        """The request with nothing left open, as this pipeline draws it. Raises InputError for what it cannot draw."""
        if negative_prompt is not None:
            settings["negative_prompt"] = negative_prompt
        if not isinstance(prompt, Request):
            request = Request(prompt, **settings)
        else:
            request = prompt.changed(**settings) if settings else prompt
        run = request.resolve(self.defaults, self.transformer.config)
        if run.control_image is not None and self.controlnet is None:
            raise InputError(
                "there is a control image but no ControlNet: load the pipeline with one, under controlnet or in the "
                "folder"
            )
        return run

    @torch.no_grad()
    def encode_text(self, run: Resolved) -> Texts:
        """The prompts, and the negative prompts if guidance uses them. Each is for `batch_size` pictures in a row."""
        unguided = run.guidance_scale == 1.0 or self.transformer.config.guidance_embed
        with self.turn(self.text_encoder):
            states, mask = self._encode(run.prompt, run.instruction)
            lengths = mask.sum(1).tolist() if run.negative_mask == "positive" else None
            negative = None if unguided else self._encode(run.negative_prompt, None, lengths)
        return (states, needed(mask)), None if negative is None else (negative[0], needed(negative[1]))

    @torch.no_grad()
    def start(self, run: Resolved) -> Start:
        """The noise of the run, and the latents of its pictures."""
        seeds = run.seed if run.seeds is None else run.seeds
        noise, step_noise = start_noise(run.shape(self.transformer.config), seeds, run.latents, run.step_noise)
        noise = noise.to(self.device, torch.float32)
        return Start(
            noise=noise,
            step_noise=step_noise,
            picture=None if run.image is None else self.encode_image(run.image, run),
            redrawn=None if run.mask is None else mask_latents(run.mask, run.width, run.height).to(noise),
            control=self._control(run),
        )

    @torch.no_grad()
    def sample(self, run: Resolved, texts: Texts, start: Start, callback: StepCallback | None = None) -> Tensor:
        """All steps of the sampler -> latents (B, 32, h, w) of about unit variance, float32."""
        networks = [self.transformer, *(branch.network for branch in start.control)]
        sigmas = run.sigmas()
        with self.turn(*networks):
            x, denoise = start.begin(self.denoiser(run, texts, start.control), sigmas[0].item())
            solver = SAMPLERS[run.sampler].sample
            x = solver(denoise, x, sigmas, step_noise=start.step_noise, callback=callback)
        if not x.isfinite().all():
            log.warning(
                "the latents are not finite, so the picture is black: choose another number type (dtype), a smaller "
                "guidance scale, or leave out the LoRA"
            )
        return x

    def denoiser(self, run: Resolved, texts: Texts, control: Sequence[ControlBranch] = ()) -> Denoise:
        """`denoise(x, sigma) -> x0` for encoded prompts, guidance included."""
        return make_denoiser(
            self.transformer,
            *texts,
            guidance_scale=run.guidance_scale,
            truncate_timestep=SAMPLERS[run.sampler].truncate_timestep,
            pag_scale=run.pag_scale,
            pag_layers=run.pag_layers,
            control=control,
            predict=Replay(self.transformer) if self._replays else None,
        )

    @torch.no_grad()
    def encode_image(self, image: Picture, size: SamplingDefaults | Resolved) -> Tensor:
        """A picture -> its latent (1 or B, 32, h, w) of about unit variance, float32. size: has width and height."""
        pixels = picture_tensor(image, size.width, size.height)
        with self.turn(self.autoencoder):
            pixels = pixels.to(self.device, _dtype(self.autoencoder))
            tile = self.tile(pixels, size.width, size.height, encode=True)
            return with_smaller_tiles(lambda tile: _one_by_one(self.autoencoder.encode, pixels, tile), tile)

    @overload
    def decode(self, latents: Tensor, *, pil: Literal[True] = True) -> list[Image.Image]: ...

    @overload
    def decode(self, latents: Tensor, *, pil: Literal[False]) -> Tensor: ...

    @overload
    def decode(self, latents: Tensor, *, pil: bool) -> list[Image.Image] | Tensor: ...

    @torch.no_grad()
    def decode(self, latents: Tensor, *, pil: bool = True) -> list[Image.Image] | Tensor:
        """Latents (B, 32, h, w) of about unit variance -> PIL pictures, or (B, 3, 32 h, 32 w) in 0..1, float32."""
        height, width = self.autoencoder.geometry.in_pixels(latents.shape)
        with self.turn(self.autoencoder):
            latents = latents.to(self.device, _dtype(self.autoencoder))
            tile = self.tile(latents, width, height)
            image = with_smaller_tiles(lambda tile: _one_by_one(self.autoencoder.decode, latents, tile), tile)
        image = (image * 0.5 + 0.5).clamp(0.0, 1.0)
        return to_pil(image) if pil else image

    def tile(self, given: Tensor, width: int, height: int, *, encode: bool = False) -> int | None:
        """Side of the autoencoder's exact tiles: the largest that fits, with offload at most OFFLOADED_TILE."""
        tile = auto_tile(self.autoencoder.config, height, width, given, encode=encode)
        if self.offload and max(width, height) > OFFLOADED_TILE:
            return min(tile or OFFLOADED_TILE, OFFLOADED_TILE)
        return tile

    def turn(self, *networks: nn.Module) -> AbstractContextManager[None]:
        """In the block these networks are on the device, with offload no others."""
        return on_device(self.device, *networks) if self.offload else nullcontext()

    @property
    def _replays(self) -> bool:
        few_steps = self.transformer.config.guidance_embed  # a recording would hardly be used
        usable = self.fast != "off" and not self.offload and not few_steps and obstacle(self.device) is None
        return usable and not is_heard(self.transformer)

    def _control(self, run: Resolved) -> tuple[ControlBranch, ...]:
        if run.control_image is None or self.controlnet is None:
            return ()
        return (ControlBranch(self.controlnet, self.encode_image(run.control_image, run), run.control_scale),)

    def _encode(
        self, prompts: Sequence[str], instruction: str | None, kept_lengths: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        states, mask = self.text_encoder.encode(list(prompts), instruction=instruction, kept_lengths=kept_lengths)
        return states.to(self.transformer.scale_shift_table.dtype), mask


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def needed(mask: Tensor) -> Tensor | None:
    """A mask (B, L), or None where all tokens count."""
    return None if mask.all() else mask


def _one_by_one(work: Callable[..., Tensor], batch: Tensor, tile: int | None) -> Tensor:
    """`work` on each item of a batch, so that memory does not grow with the batch; the results in float32."""
    return torch.cat([work(item, tile=tile).float() for item in batch.split(1)])
