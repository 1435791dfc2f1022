"""How large the inputs of the quantised layers become.

fp8 and nvfp4 can round the input of a layer at a scale that stands in the file. It comes from the largest absolute
input over some prompts: of a transformer while it draws, of a Gemma-2 while it encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoint.canonical import transformer_prefix
from ..checkpoint.files import component_folder, read_checkpoint
from ..checkpoint.load import load_transformer
from ..config import SamplingDefaults
from ..dcae.autoencoder import DCAE
from ..device import pick_device
from ..errors import InputError
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request
from ..precision import companion_dtype, loaded_dtype
from ..sources import PipelineFiles, pipeline_files, released_sampling
from ..text.load import load_text_encoder
from .policy import kind_of_layer

STEPS = 8  # of a picture, spread over the model's own schedule; activations change slowly between neighbours
Progress = Callable[[int, int], None]


class Largest:
    """The largest absolute input of every quantised Linear of a network, as long as the block of `listening` lasts."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = {
            name: layer
            for name, layer in network.named_modules()
            if kind_of_layer(f"{name}.weight") and not isinstance(layer, nn.Embedding)
        }
        self._peaks: dict[str, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = [layer.register_forward_pre_hook(self._hear(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self) -> dict[str, float]:
        """By the name of the layer. Raises InputError if one of them is not finite."""
        found = {name: float(peak) for name, peak in self._peaks.items()}
        for name, peak in found.items():
            if not peak < float("inf"):
                raise InputError(f"the input of {name} is not finite in a run over the prompts: choose another dtype")
        return found

    def _hear(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hear(layer: nn.Module, args: Any) -> None:
            peak, before = args[0].detach().abs().amax().float(), self._peaks.get(name)
            self._peaks[name] = peak if before is None else torch.maximum(peak, before)

        return hear


def largest_inputs(
    source: str | Path,
    requests: Sequence[Request],
    *,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The largest absolute inputs of the layers of a SANA transformer or a Gemma-2, by the layers' names.

    source: its file or folder.  requests: what to draw with the transformer, or to encode.  A request without steps
    takes STEPS, or the model's own if these are fewer.  text_encoder: beside a transformer, unless `source` is a whole
    pipeline folder.  device: None takes the GPU if there is one.  variant, trained_precision: as in `load_transformer`.
    progress: called with how many requests are done, and of how many.

    Raises CheckpointError, InputError.
    """
    if not requests:
        raise InputError("there are no prompts to calibrate with: give some")
    place, source = pick_device(device), Path(source)
    header = read_checkpoint(component_folder(source, "transformer"), "meta")
    if transformer_prefix(header.tensors) is None:
        return _of_text_encoder(source, requests, tokenizer, place, progress)
    pipeline = calibration_pipeline(
        calibration_files(source, text_encoder, tokenizer), place, variant, trained_precision
    )
    heard = Largest(pipeline.transformer)
    draw_latents(pipeline, requests, heard.listening, progress)
    return heard.values()


def draw_latents(
    pipeline: SanaPipeline,
    requests: Sequence[Request],
    listening: Callable[[], AbstractContextManager[Any]],
    progress: Progress | None,
) -> None:
    """Draw the requests as far as the latents, each while somebody is listening to the layers."""
    for number, request in enumerate(requests, 1):
        with listening():
            pipeline(_calibration_request(request, number, pipeline.defaults), output="latent")
        if progress is not None:
            progress(number, len(requests))


def calibration_files(
    source: Path, text_encoder: str | Path | None = None, tokenizer: str | Path | None = None
) -> PipelineFiles:
    """What to draw with: a whole pipeline folder, or a transformer beside a text encoder. Raises InputError."""
    if (source / "model_index.json").is_file():
        files = pipeline_files(source)
        files = files if text_encoder is None else replace(files, text_encoder=Path(text_encoder), tokenizer=None)
    elif text_encoder is None:
        raise InputError("measuring a transformer needs a text encoder: name a Gemma-2")
    else:
        files = PipelineFiles(transformer=source, autoencoder=source, text_encoder=Path(text_encoder))
    return files if tokenizer is None else replace(files, tokenizer=Path(tokenizer))


def _calibration_request(request: Request, number: int, defaults: SamplingDefaults) -> Request:
    """The request with STEPS, or the model's own if these are fewer, and a seed, unless it has its own."""
    steps = request.steps or min(STEPS, defaults.steps)
    return request.changed(steps=steps, seed=number if request.seed is None else request.seed)


def calibration_pipeline(
    files: PipelineFiles, place: torch.device, variant: str | None = None, trained_precision: str | None = None
) -> SanaPipeline:
    """A pipeline that draws as far as the latents. Beside a GPU the networks take turns on it."""
    offload = place.type != "cpu"
    transformer = load_transformer(
        files.transformer,
        dtype=None if offload else torch.float32,
        variant=variant,
        trained_precision=trained_precision,
    )
    if offload:
        transformer.to(loaded_dtype(transformer.config, transformer.scale_shift_table.dtype, place))
    companions = companion_dtype(transformer.scale_shift_table.dtype, place)
    return SanaPipeline(
        transformer=transformer,
        autoencoder=cast(DCAE, None),  # latents are enough
        text_encoder=load_text_encoder(files.text_encoder, tokenizer=files.tokenizer, dtype=companions),
        defaults=released_sampling(files, transformer.config, variant),
        device=place,
        offload=offload,
        fast="off",
    )


def _of_text_encoder(
    source: Path,
    requests: Sequence[Request],
    tokenizer: str | Path | None,
    place: torch.device,
    progress: Progress | None,
) -> dict[str, float]:
    encoder = load_text_encoder(source, tokenizer=tokenizer, device=place, dtype=companion_dtype(None, place))
    heard = Largest(encoder.model)
    for number, request in enumerate(requests, 1):
        for texts, instruction in ((request.prompt, request.instruction), (request.negative_prompt, None)):
            with heard.listening():
                encoder.encode([texts] if isinstance(texts, str) else list(texts), instruction=instruction)
        if progress is not None:
            progress(number, len(requests))
    return heard.values()
