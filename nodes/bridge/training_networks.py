"""The host's three networks as a training takes them: they stay the host's, which loads, casts and offloads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from PIL import Image
from torch import Tensor

from ...sana_core.errors import InputError
from ...sana_core.kit import Kit
from ...sana_core.pictures.images import to_pil
from ...sana_core.training.borrowed import Lend, borrowed_transformer
from ...sana_core.training.data.fingerprint import file_fingerprint
from ...sana_core.training.material import EncodePicture, Encoders, EncodeTexts
from ...sana_core.training.sources import computed_dtype
from ...sana_core.transformer.model import SanaTransformer
from .autoencoder import ComfyDCAE
from .model import SanaModel
from .sampling import encode_prompt
from .tokenizer import SanaTokenizer

SAMPLE = 64  # numbers of a tensor that tell it from others


class HostNetworks:
    """MODEL, CLIP and VAE. Raises InputError unless all three are SANA's.

    memory: bytes that a step takes beside the weights, which the host makes room for.
    """

    def __init__(self, model: Any, clip: Any, vae: Any) -> None:
        found = [
            getattr(model, "model", None),
            getattr(clip, "tokenizer", None),
            getattr(vae, "first_stage_model", None),
        ]
        kinds = {"model": SanaModel, "clip": SanaTokenizer, "vae": ComfyDCAE}
        for (name, kind), part in zip(kinds.items(), found):
            if not isinstance(part, kind):
                raise InputError(f"{name} is no part of a SANA model: connect the one of Load SANA")
        self.model, self.clip, self.vae = model, clip, vae
        self.network: Any = model.model.diffusion_model
        self.config, self.sampling = self.network.config, model.model.model_config.sampling_defaults
        self.device: torch.device = model.load_device
        self.dtype = computed_dtype(self.device)
        self.autocast = None if self.dtype == torch.float32 else self.dtype
        self.memory = 0

    def base(self) -> str:
        return fingerprint(self.model)

    def encoders(self) -> Encoders:
        return Encoders(
            text=fingerprint(self.clip.patcher),
            picture=f"{fingerprint(self.vae.patcher)} {self.vae.vae_dtype}",
            open_text=self._open_text,
            open_picture=self._open_picture,
        )

    def transformer(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> SanaTransformer:
        if str(device) == "meta":
            return SanaTransformer(self.config, Kit(device="meta", dtype=dtype or self.dtype))
        self._load()
        return borrowed_transformer(self.config, self._lend, self._small, self.device)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        with torch.inference_mode():
            pictures = self.vae.decode(self.model.model.process_latent_out(latents))
        self._load()  # the autoencoder may have taken its place
        return to_pil(pictures.movedim(-1, 1).clone())

    @torch.inference_mode()
    def _load(self) -> None:
        comfy.model_management.load_models_gpu([self.model], memory_required=self.memory)

    def _lend(self, name: str) -> Lend:
        layer = self.network.get_submodule(name)

        @contextmanager
        def numbers(dtype: torch.dtype) -> Iterator[Tensor]:
            with self._cast(layer, dtype) as (weight, _):
                yield weight

        return numbers

    def _small(self, name: str) -> Tensor:
        module, _, own = name.rpartition(".")
        layer = self.network.get_submodule(module)
        if not isinstance(layer, comfy.ops.CastWeightBiasOp):
            return getattr(layer, own).to(self.device, self.dtype, copy=True)
        with self._cast(layer, self.dtype) as tensors:
            return tensors[own == "bias"].clone()

    @contextmanager
    def _cast(self, layer: Any, dtype: torch.dtype) -> Iterator[tuple[Tensor, Any]]:
        """Weight and bias as the host's own layer would use them: from where they are, with what nodes add at use."""
        with torch.inference_mode():
            weight, bias, lent = comfy.ops.cast_bias_weight(
                layer, dtype=dtype, device=self.device, bias_dtype=dtype, offloadable=True
            )
            numbers = weight.dequantize() if hasattr(weight, "_qdata") else weight
            scale = getattr(layer, "pre_quant_scale", None)  # of the inputs
            numbers = numbers.to(dtype) if scale is None else numbers.to(dtype) * scale.to(numbers.device, dtype)
        try:
            yield numbers, bias
        finally:
            comfy.ops.uncast_bias_weight(layer, weight, bias, lent)

    def _open_text(self) -> EncodeTexts:
        def encode(texts: list[str], instruction: str | None) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                found = [encode_prompt(self.clip, text, instruction)[0][0][0][0] for text in texts]
            states = torch.nn.utils.rnn.pad_sequence([state.cpu() for state in found], batch_first=True)
            if states.shape[-1] != self.config.caption_channels:
                raise InputError(
                    f"clip gives text states of {states.shape[-1]} numbers, this model reads "
                    f"{self.config.caption_channels}: load the text encoder of the same model"
                )
            lengths = torch.tensor([len(state) for state in found])
            return states, torch.arange(states.shape[1]) < lengths[:, None]

        return encode

    def _open_picture(self) -> EncodePicture:
        def encode(pixels: Tensor) -> Tensor:
            with torch.inference_mode():
                raw = self.vae.encode((pixels * 0.5 + 0.5).movedim(1, -1))
                return self.model.model.process_latent_in(raw).cpu()

        return lambda pixels: encode(pixels).clone()


def fingerprint(patcher: Any) -> str:
    """What tells a network from others, with the LoRAs that nodes have added to it: of its files, or else of a sample
    of its weights.
    """
    files = [Path(name) for name in _texts(getattr(patcher, "cached_patcher_init", None)) if Path(name).is_file()]
    found = file_fingerprint(*files) if files else _of_tensors(patcher.model.state_dict().items())
    if not patcher.patches:
        return found
    added = ((key, tensor) for key, patches in sorted(patcher.patches.items()) for tensor in _tensors(patches))
    return f"{found} {_of_tensors(added)}"


def _texts(made_by: Any) -> Iterator[str]:
    """All texts among what a loader was called with."""
    if isinstance(made_by, str):
        yield made_by
    elif isinstance(made_by, (list, tuple)):
        for part in made_by:
            yield from _texts(part)


def _tensors(patch: Any) -> Iterator[Tensor]:
    """All tensors and strengths of the host's patches of a weight."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, (list, tuple)):
        for part in patch:
            yield from _tensors(part)
    elif isinstance(patch, (int, float)):
        yield torch.tensor(float(patch), device="cpu", dtype=torch.float32)
    else:  # one of the host's adapters
        yield from _tensors(getattr(patch, "weights", ()))


def _of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta and tensor.numel():
            flat = tensor.detach().flatten()
            some = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE]
            digest.update(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
