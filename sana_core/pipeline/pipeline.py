"""Prompt to picture in plain PyTorch: text encoder, transformer in a sampler's loop, autoencoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from ..config import SamplingDefaults
from ..dcae.autoencoder import DCAE
from ..dcae.memory import auto_tile
from ..device import pick_device
from ..errors import InputError
from ..latents import latent_size
from ..pictures.control import control_picture
from ..pictures.images import Picture, natural_size, picture_tensor, to_pil
from ..presets import pag_layer
from ..samplers.denoiser import make_denoiser
from ..samplers.flow_euler import Denoise, StepCallback
from ..samplers.methods import SAMPLERS, check_sampler, check_shift
from ..sources import pipeline_files, released_sampling
from ..text.gemma import GemmaTextEncoder
from ..text.load import load_text_encoder
from ..transformer.controlnet import ControlBranch, SanaControlNet
from ..transformer.model import SanaTransformer
from .offload import on_device
from .start import redrawn_share, start_from_picture, start_noise, step_noises

log = logging.getLogger("sana")
EncodedText: TypeAlias = tuple[Tensor, Tensor]  # text states (B, L, C) and their mask (B, L) of bool
OUTPUTS = ("pil", "latent", "tensor")
NEGATIVE_MASKS = ("own", "positive")
# pixels; larger pictures are encoded and decoded in such tiles at the most, 1 GB beside the weights at 4096 px
OFFLOADED_TILE = 1024


def load_pipeline(
    source: str | Path | Mapping[str, str | Path] = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    controlnet: str | Path | None = None,
    control_order: str = "upstream",
    offload: bool = False,
) -> SanaPipeline:
    """Load the three networks of SANA, and a ControlNet where there is one.

    source: "nano" or "nano-sprint", the embedded models; a diffusers pipeline folder; or paths under "transformer",
    "autoencoder", "text_encoder" and, where the text encoder has none inside, "tokenizer"; "controlnet" is optional.
    device: None takes the GPU if there is one. dtype: of the transformer; None is float32 on the CPU and the file's own
    on a GPU. Autoencoder and text encoder run in float32 where dtype is float32, else in bfloat16: both overflow
    float16. variant: "512", "1024", "2k" or "4k" for a transformer file that does not tell, trained_precision:
    "float16" or "bfloat16" for one that does not tell how the model was trained, see `precision.py`. controlnet: a file
    or folder, in place of what `source` has. control_order: how it is connected, "upstream" or "diffusers", see
    `transformer/controlnet.py`. offload: the networks live on the CPU and take turns on the device, see `SanaPipeline`.

    Raises CheckpointError or InputError.
    """
    place, files = pick_device(device), pipeline_files(source)
    if dtype is None and place.type == "cpu":
        dtype = torch.float32
    home = torch.device("cpu") if offload else place
    companions = torch.float32 if dtype == torch.float32 else torch.bfloat16
    transformer = load_transformer(
        files.transformer, device=home, dtype=dtype, variant=variant, trained_precision=trained_precision
    )
    network, path = None, controlnet or files.controlnet
    if path is not None:
        network = load_controlnet(path, order=control_order, device=home, dtype=transformer.scale_shift_table.dtype)
        network.check_base(transformer.config)
    return SanaPipeline(
        transformer=transformer,
        autoencoder=load_autoencoder(files.autoencoder, device=home, dtype=companions),
        text_encoder=load_text_encoder(files.text_encoder, tokenizer=files.tokenizer, device=home, dtype=companions),
        controlnet=network,
        defaults=released_sampling(files, transformer.config, variant),
        device=place,
        offload=offload,
    )


@dataclass(kw_only=True)
class SanaPipeline:
    """The networks, the device they run on, and how the model is sampled when the caller says nothing. Made by
    `load_pipeline`.

    offload: the networks are on the CPU, and each is on the device only for its turn: the text encoder, the transformer
    with its ControlNet for all steps, the autoencoder. The peak is that of the largest turn, weights included. For 1.6B
    in bfloat16 with guidance, counted by bench/memory.py: text encoder 5.3 GB, transformer 3.4 GB at 1024 px and 4.6 GB
    at 4096 px (3.2 of weights, 0.1 of keys and values of the prompts, 1.3 for a step), autoencoder 2.0 GB (0.6 of
    weights, 1.3 for 1024 px at once or 1.0 for 4096 px in tiles).
    """

    transformer: SanaTransformer
    autoencoder: DCAE
    text_encoder: GemmaTextEncoder
    controlnet: SanaControlNet | None = None
    defaults: SamplingDefaults
    device: torch.device
    offload: bool = False

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
        negative_mask: str = "own",
        pag_scale: float = 0.0,
        pag_layers: Sequence[int] | None = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        step_noise: Tensor | None = None,
        image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        control_image: Picture | None = None,
        control_scale: float = 1.0,
        batch_size: int = 1,
        callback: StepCallback | None = None,
        output: str = "pil",
    ) -> list[Image.Image] | Tensor:
        """Draw `batch_size` pictures of each prompt. None stands for the model's own default.

        negative_prompt: one for all or one per prompt. width, height: pixels, multiples of 32; where neither is given,
        those of latents or image. shift: not for scm, whose grid has none. instruction: what stands before prompts,
        never before negative ones: "default", "diffusers", None or an own text. negative_mask: "own" shows the model
        the negative prompt's own tokens, as diffusers does; "positive" as many as the prompt has, with padding, as
        upstream does. pag_scale: of perturbed-attention guidance, 0 is off, upstream's demo takes 2; pag_layers: the
        blocks it perturbs. seed: None draws another picture each time. latents: unit-variance noise (B, 32, h, w) in
        place of a seed, and step_noise (steps or steps - 1, B, 32, h, w) in place of what scm draws in its steps.
        image: a picture to start from (PIL, or a tensor in 0..1), of which `strength` in (0, 1] is redrawn, all over or
        where `mask` is bright. control_image: what the ControlNet follows, such as an edge map, control_scale times as
        strongly as trained. callback: called after each step with (step, sigma, latents after the step, predicted x0).

        Returns PIL pictures, or with output="tensor" (B, 3, H, W) in 0..1, with output="latent" (B, 32, h, w) of about
        unit variance, both float32. Raises InputError.
        """
        if output not in OUTPUTS:
            raise InputError(f'output="{output}", expected one of {", ".join(OUTPUTS)}')
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if width is None and height is None:
            width, height = natural_size(latents, image)
        settings = self.settings(
            width=width, height=height, steps=steps, guidance_scale=guidance_scale, sampler=sampler, shift=shift
        )
        for warning in (
            check_sampler(settings.sampler, self.transformer.config),
            check_shift(settings.shift, self.defaults),
        ):
            if warning:
                log.warning(warning)
        share = redrawn_share(image, strength, mask)
        sigmas = self.sigmas(settings, share)
        seed = torch.Generator().seed() if seed is None else seed
        x = self.start_noise(settings, len(prompts) * batch_size, seed, latents)
        control = self.control_branches(control_image, settings, control_scale, len(x))
        original = None if image is None else self.encode_image(image, settings)
        draws = step_noises(settings.sampler, x, len(sigmas) - 2, seed, step_noise)
        texts = self.encode_prompts(
            prompts, negatives, settings, instruction=instruction, negative_mask=negative_mask, repeats=batch_size
        )
        with self._turn(self.transformer, *([self.controlnet] if control and self.controlnet else [])):
            denoise = self.denoiser(*texts, settings, pag_scale=pag_scale, pag_layers=pag_layers, control=control)
            if original is not None:
                x, denoise = start_from_picture(x, denoise, original, mask, settings, sigmas[0].item())
            x = SAMPLERS[settings.sampler].sample(denoise, x, sigmas, callback=callback, **draws)
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
        given = {
            "width": width,
            "height": height,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "sampler": sampler,
            "shift": shift,
        }
        settings = replace(self.defaults, **{name: value for name, value in given.items() if value is not None})
        latent_size(settings.width, settings.height)
        if not (math.isfinite(settings.guidance_scale) and math.isfinite(settings.shift)):
            raise InputError(
                f"guidance_scale {settings.guidance_scale} and shift {settings.shift}: both have to be numbers"
            )
        check_sampler(settings.sampler, self.transformer.config)
        self.sigmas(settings)
        return settings

    def sigmas(self, settings: SamplingDefaults, share: float | None = None) -> Tensor:
        """The grid of a run, (N + 1,), or the end of it that redraws that share of a picture."""
        method = SAMPLERS[settings.sampler]
        grid = method.sigmas(settings.steps, settings.shift)
        return grid if share is None else method.tail(grid, share)

    def start_noise(
        self, settings: SamplingDefaults, batch: int, seed: int | None = None, latents: Tensor | None = None
    ) -> Tensor:
        """`latents`, or noise of `seed` (None: of a random seed), (batch, 32, h, w), float32, on the device."""
        seed = torch.Generator().seed() if seed is None else seed
        return start_noise(self.transformer.config.latent_channels, settings, batch, seed, latents).to(
            self.device, torch.float32
        )

    def encode_prompts(
        self,
        prompts: list[str],
        negatives: list[str],
        settings: SamplingDefaults,
        *,
        instruction: str | None,
        negative_mask: str = "own",
        repeats: int = 1,
    ) -> tuple[EncodedText, EncodedText | None]:
        """Text states and masks of every prompt `repeats` times, in order, and those of the negative prompts where
        guidance uses them.
        """
        if len(negatives) != len(prompts):
            raise InputError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one for all, or one for each"
            )
        if negative_mask not in NEGATIVE_MASKS:
            raise InputError(f'negative_mask="{negative_mask}", expected one of {", ".join(NEGATIVE_MASKS)}')
        with self._turn(self.text_encoder):
            cond = self._encode(prompts, instruction, repeats)
            unguided = settings.guidance_scale == 1.0 or self.transformer.config.guidance_embed
            lengths = cond[1].sum(1)[::repeats].tolist() if negative_mask == "positive" else None
            return cond, None if unguided else self._encode(negatives, None, repeats, lengths)

    def denoiser(
        self,
        cond: EncodedText,
        uncond: EncodedText | None,
        settings: SamplingDefaults,
        *,
        pag_scale: float = 0.0,
        pag_layers: Sequence[int] | None = None,
        control: Sequence[ControlBranch] = (),
    ) -> Denoise:
        """`denoise(x, sigma) -> x0` for the prompts that `encode_prompts` encoded."""
        if not 0.0 <= pag_scale < math.inf:
            raise InputError(f"pag_scale is {pag_scale}, expected 0 (off) or more, such as 2")
        return make_denoiser(
            self.transformer,
            cond,
            uncond,
            guidance_scale=settings.guidance_scale,
            truncate_timestep=SAMPLERS[settings.sampler].truncate_timestep,
            pag_scale=pag_scale,
            pag_layers=(pag_layer(self.transformer.config),) if pag_layers is None else pag_layers,
            control=control,
        )

    def control_branches(
        self, image: Picture | None, settings: SamplingDefaults, scale: float, batch: int
    ) -> list[ControlBranch]:
        """The ControlNet at work on a control picture, one for all or one for each; nothing without a picture."""
        if image is None:
            return []
        if not math.isfinite(scale):
            raise InputError(f"control_scale is {scale}, expected a number such as 1")
        if self.controlnet is None:
            raise InputError(
                "there is a control image but no ControlNet: load the pipeline with one, under controlnet or in the "
                "folder"
            )
        latent = self.encode_image(control_picture(image, settings.width, settings.height), settings)
        if len(latent) not in (1, batch):
            raise InputError(f"{len(latent)} control pictures for {batch} pictures: give one for all, or one for each")
        return [ControlBranch(self.controlnet, latent, scale)]

    def encode_image(self, image: Picture, settings: SamplingDefaults) -> Tensor:
        """A picture -> its latent (1 or B, 32, h, w) of about unit variance, float32."""
        pixels = picture_tensor(image, settings.width, settings.height)
        with self._turn(self.autoencoder):
            pixels = pixels.to(self.device, self.autoencoder.decoder.conv_in.weight.dtype)
            return self.autoencoder.encode(
                pixels, tile=self._tile(pixels, settings.width, settings.height, encode=True)
            ).float()

    def decode(self, latents: Tensor, *, pil: bool = True) -> list[Image.Image] | Tensor:
        """Latents (B, 32, h, w) of about unit variance -> PIL pictures, or (B, 3, 32 h, 32 w) in 0..1, float32."""
        height, width = self.autoencoder.geometry.in_pixels(latents.shape)
        with self._turn(self.autoencoder):
            latents = latents.to(self.device, self.autoencoder.decoder.conv_in.weight.dtype)
            image = self.autoencoder.decode(latents, tile=self._tile(latents, width, height)).float()
        image = (image * 0.5 + 0.5).clamp(0.0, 1.0)
        return to_pil(image) if pil else image

    def _tile(self, given: Tensor, width: int, height: int, *, encode: bool = False) -> int | None:
        """Side of the autoencoder's exact tiles: the largest that fits; with offload not so large that its turn becomes
        the largest.
        """
        tile = auto_tile(self.autoencoder.config, height, width, given, encode=encode)
        if self.offload and max(width, height) > OFFLOADED_TILE:
            return min(tile or OFFLOADED_TILE, OFFLOADED_TILE)
        return tile

    def _turn(self, *networks: nn.Module) -> AbstractContextManager[None]:
        return on_device(self.device, *networks) if self.offload else nullcontext()

    def _encode(
        self, prompts: list[str], instruction: str | None, repeats: int, kept_lengths: list[int] | None = None
    ) -> EncodedText:
        states, mask = self.text_encoder.encode(prompts, instruction=instruction, kept_lengths=kept_lengths)
        return states.to(self.transformer.scale_shift_table.dtype).repeat_interleave(
            repeats, 0
        ), mask.repeat_interleave(repeats, 0)
