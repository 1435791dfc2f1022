"""Prompt to picture in plain PyTorch: text encoder, transformer in a sampler's loop, autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from .checkpoint.load import load_autoencoder, load_transformer
from .config import DOWNSCALE, SamplingDefaults
from .dcae.autoencoder import DCAE
from .device import pick_device
from .errors import InputError
from .images import mask_latents, picture_tensor, to_pil
from .latents import latent_size, noise
from .samplers.denoiser import make_denoiser
from .samplers.flow_dpm import sample_flow_dpm
from .samplers.flow_euler import Denoise, StepCallback, sample_flow_euler
from .samplers.schedules import flow_dpm_sigmas, flow_euler_sigmas, img2img_tail
from .sources import pipeline_files, released_sampling
from .text.gemma import GemmaTextEncoder
from .text.load import load_text_encoder
from .transformer.model import SanaTransformer


@dataclass(frozen=True)
class Sampler:
    """A solver, its grid of sigmas by (steps, shift), and whether the model sees whole timesteps, as in the released code."""

    sample: Callable[..., Tensor]
    sigmas: Callable[[int, float], Tensor]
    truncate_timestep: bool


SAMPLERS = {
    "flow_dpm": Sampler(sample_flow_dpm, flow_dpm_sigmas, truncate_timestep=True),
    "flow_euler": Sampler(sample_flow_euler, flow_euler_sigmas, truncate_timestep=False),
}
Picture: TypeAlias = Image.Image | Tensor
OUTPUTS = ("pil", "latent", "tensor")
REDRAWN = 0.6  # strength of img2img where none is given; with a mask everything under it is redrawn


def load_pipeline(
    source: str | Path | Mapping[str, str | Path] = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> SanaPipeline:
    """Load the three networks of SANA.

    source: "nano", the embedded model; a diffusers pipeline folder; or paths under "transformer", "autoencoder", "text_encoder" and, where
    the text encoder has none inside, "tokenizer". device: None takes the GPU if there is one. dtype: of the transformer; None is float32 on
    the CPU and the file's own on a GPU. Autoencoder and text encoder run in float32 where dtype is float32, else in bfloat16:
    both overflow float16. variant: "512", "1024", "2k" or "4k" for a transformer file that does not tell.

    Raises CheckpointError or InputError.
    """
    place, files = pick_device(device), pipeline_files(source)
    if dtype is None and place.type == "cpu":
        dtype = torch.float32
    companions = torch.float32 if dtype == torch.float32 else torch.bfloat16
    transformer = load_transformer(files.transformer, device=place, dtype=dtype, variant=variant)
    return SanaPipeline(
        transformer=transformer,
        autoencoder=load_autoencoder(files.autoencoder, device=place, dtype=companions),
        text_encoder=load_text_encoder(files.text_encoder, tokenizer=files.tokenizer, device=place, dtype=companions),
        defaults=released_sampling(files, transformer.config, variant),
    )


@dataclass(kw_only=True)
class SanaPipeline:
    """The three networks on one device, and how the model is sampled when the caller says nothing. Made by `load_pipeline`."""

    transformer: SanaTransformer
    autoencoder: DCAE
    text_encoder: GemmaTextEncoder
    defaults: SamplingDefaults

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] = "",
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        shift: float | None = None,
        instruction: str | None = "default",
        seed: int | None = None,
        latents: Tensor | None = None,
        image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        batch_size: int = 1,
        callback: StepCallback | None = None,
        output: str = "pil",
    ) -> list[Image.Image] | Tensor:
        """Draw `batch_size` pictures of each prompt. None stands for the model's own default.

        negative_prompt: one for all or one per prompt. width, height: pixels, multiples of 32; where neither is given, those of latents or
        image. instruction: what stands before prompts, never before negative ones: "default", "diffusers", None or an own text. seed: None
        draws another picture each time. latents: unit-variance noise (B, 32, h, w) in place of a seed. image: a picture to start from (PIL,
        or a tensor in 0..1), of which `strength` in (0, 1] is redrawn, all over or where `mask` is bright. callback: called after each step
        with (step, sigma, latents after the step, predicted x0).

        Returns PIL pictures, or with output="tensor" (B, 3, H, W) in 0..1, with output="latent" (B, 32, h, w) of about unit variance, both
        float32. Raises InputError.
        """
        if output not in OUTPUTS:
            raise InputError(f'output="{output}", expected one of {", ".join(OUTPUTS)}')
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if width is None and height is None:
            width, height = _natural_size(latents, image)
        settings = self.settings(width=width, height=height, steps=steps, guidance_scale=guidance_scale, sampler=sampler, shift=shift)
        method = SAMPLERS[settings.sampler]
        sigmas = method.sigmas(settings.steps, settings.shift)
        x = self.start_noise(settings, len(prompts) * batch_size, seed, latents)
        denoise = self.denoiser(prompts, negatives, settings, instruction=instruction, repeats=batch_size)
        if image is not None:
            strength = strength if strength is not None else REDRAWN if mask is None else 1.0
            sigmas = img2img_tail(sigmas, strength)
            x, denoise = self._from_image(x, denoise, image, mask, settings, sigmas[0].item())
        elif strength is not None or mask is not None:
            raise InputError("strength and mask say how to redraw a picture: give the picture as image=")
        x = method.sample(denoise, x, sigmas, callback=callback)
        return x if output == "latent" else self.decode(x, pil=output == "pil")

    def settings(
        self,
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        shift: float | None = None,
    ) -> SamplingDefaults:
        """The model's defaults with what is given in their place. Raises InputError for settings that cannot be."""
        given = {"width": width, "height": height, "steps": steps, "guidance_scale": guidance_scale, "sampler": sampler, "shift": shift}
        settings = replace(self.defaults, **{name: value for name, value in given.items() if value is not None})
        latent_size(settings.width, settings.height)
        if settings.sampler not in SAMPLERS:
            raise InputError(f'there is no sampler "{settings.sampler}" here, choose one of {", ".join(SAMPLERS)}')
        SAMPLERS[settings.sampler].sigmas(settings.steps, settings.shift)
        return settings

    def start_noise(self, settings: SamplingDefaults, batch: int, seed: int | None = None, latents: Tensor | None = None) -> Tensor:
        """`latents`, or noise of `seed` (None: of a random seed), (batch, 32, h, w), float32, on the transformer's device."""
        shape = (batch, self.transformer.config.latent_channels, *latent_size(settings.width, settings.height))
        x = noise(shape, torch.Generator().seed() if seed is None else seed) if latents is None else latents
        if tuple(x.shape) != shape:
            size = f"{settings.width} x {settings.height}"
            raise InputError(f"latents of shape {tuple(x.shape)}, expected {shape} for {batch} pictures of {size}")
        return x.to(self.transformer.scale_shift_table.device, torch.float32)

    def denoiser(
        self, prompts: list[str], negatives: list[str], settings: SamplingDefaults, *, instruction: str | None, repeats: int = 1
    ) -> Denoise:
        """`denoise(x, sigma) -> x0` for every prompt `repeats` times, in order."""
        if len(negatives) != len(prompts):
            raise InputError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one for all, or one for each")
        cond = self._encode(prompts, instruction, repeats)
        unguided = settings.guidance_scale == 1.0 or self.transformer.config.guidance_embed
        uncond = None if unguided else self._encode(negatives, None, repeats)
        truncate = SAMPLERS[settings.sampler].truncate_timestep
        return make_denoiser(self.transformer, cond, uncond, guidance_scale=settings.guidance_scale, truncate_timestep=truncate)

    def encode_image(self, image: Picture, settings: SamplingDefaults) -> Tensor:
        """A picture -> its latent (1 or B, 32, h, w) of about unit variance, float32."""
        pixels = picture_tensor(image, settings.width, settings.height)
        return self.autoencoder.encode(pixels.to(self.autoencoder.decoder.conv_in.weight)).float()

    def decode(self, latents: Tensor, *, pil: bool = True) -> list[Image.Image] | Tensor:
        """Latents (B, 32, h, w) of about unit variance -> PIL pictures, or (B, 3, 32 h, 32 w) in 0..1, float32."""
        image = self.autoencoder.decode(latents.to(self.autoencoder.decoder.conv_in.weight)).float()
        image = (image * 0.5 + 0.5).clamp(0.0, 1.0)
        return to_pil(image) if pil else image

    def _encode(self, prompts: list[str], instruction: str | None, repeats: int) -> tuple[Tensor, Tensor]:
        states, mask = self.text_encoder.encode(prompts, instruction=instruction)
        return states.to(self.transformer.scale_shift_table).repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)

    def _from_image(
        self, x: Tensor, denoise: Denoise, image: Picture, mask: Picture | None, settings: SamplingDefaults, sigma: float
    ) -> tuple[Tensor, Denoise]:
        """Noise x and a denoiser -> the picture at noise level sigma, and a denoiser that keeps what lies outside the mask."""
        original = self.encode_image(image, settings)
        if len(original) not in (1, len(x)):
            raise InputError(f"{len(original)} start pictures for {len(x)} pictures: give one for all, or one for each")
        x = sigma * x + (1.0 - sigma) * original
        if mask is None:
            return x, denoise
        redrawn = mask_latents(mask, settings.width, settings.height).to(x)
        return x, lambda x, sigma: torch.lerp(original, denoise(x, sigma), redrawn)


def _natural_size(latents: Tensor | None, image: Picture | None) -> tuple[int | None, int | None]:
    """(width, height) in pixels of the latents, or of the picture cut down to whole latent cells, or None each."""
    if latents is not None and latents.ndim == 4:
        return latents.shape[-1] * DOWNSCALE, latents.shape[-2] * DOWNSCALE
    if image is None:
        return None, None
    width, height = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    return max(width // DOWNSCALE, 1) * DOWNSCALE, max(height // DOWNSCALE, 1) * DOWNSCALE
