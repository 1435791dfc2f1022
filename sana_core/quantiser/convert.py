"""Make a quantised file of a SANA transformer or a Gemma-2, one tensor at a time.

A transformer gets diffusers' names without prefix, a Gemma-2 the layout of ComfyUI's single file. So ComfyUI's own
loaders take both. Everything that can be refused is refused before the file is begun.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.canonical import Canonical, canonical_transformer, transformer_prefix
from ..checkpoint.detect import detect
from ..checkpoint.files import Checkpoint, component_folder, read_checkpoint
from ..checkpoint.fit import check_fit, fitted, naming
from ..checkpoint.folders import joined_parts
from ..checkpoint.kinds import describe
from ..checkpoint.move import check_stored
from ..checkpoint.new_file import check_target, new_file
from ..checkpoint.other_tools import refuse_other_tools
from ..checkpoint.safetensors_stream import PIECE, SafetensorsWriter
from ..checkpoint.weights import quantised_layers
from ..config import TextConfig
from ..errors import CheckpointError, InputError
from ..kit import Kit
from ..precision import precision_warning, run_dtypes
from ..sources import pipeline_files, released_sampling
from ..text.detect import GEMMA_CONFIG_KEY, SPIECE_KEY, gemma2_tensors, text_config
from ..text.gemma import build_gemma2
from ..text.tokenizer import tokenizer_from_bytes
from ..transformer.model import SanaTransformer
from .making import check_available, give_back_memory, input_scale, mark, quantise, relative_error
from .policy import EMBEDDINGS, FORMATS, GGUF, GGUF_BLOCK, chosen_format, gguf_fitting, kind_of_layer
from .report import LayerReport, Report

log = logging.getLogger("sana")
Progress = Callable[[int, int], None]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIDES = 6  # the most tensors that a quantised layer has beside its weight
GGUF_ARCHITECTURE = "sana"
GGUF_PLAIN = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
TOKENIZER_FILE = "tokenizer.model"
LARGEST_TOKENIZER = 1 << 28  # bytes


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network as it is to be written.

    source: where it comes from.  words: what it is.  tensors: under the network's names.  dtype: of what is not
    quantised.  metadata: of the file.  original_key: the name of a tensor in the source.  prefix: of the names in the
    new file.  beside: other tensors of it, by their names there, kept as they are.
    """

    source: str
    words: str
    tensors: dict[str, Tensor]
    dtype: torch.dtype
    metadata: dict[str, str]
    original_key: Callable[[str], str]
    prefix: str = ""
    beside: dict[str, Tensor] = field(default_factory=dict)

    def called(self, key: str) -> str:
        """What a tensor is called in messages: its file, and its name there."""
        return f"{self.source}: {self.original_key(key)}"


def quantise_file(
    source: str | Path,
    target: str | Path,
    format: str,
    *,
    variant: str | None = None,
    trained_precision: str | None = None,
    dtype: torch.dtype | None = None,
    embedding: str | None = None,
    tokenizer: str | Path | None = None,
    inputs: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read a model in any layout, and write it quantised.

    source: a file or folder of a SANA transformer or a Gemma-2; a whole pipeline folder stands for its transformer.
    target: the new file; with the formats "gguf-...", a GGUF file.  format: one of `policy.FORMATS`.  variant,
    trained_precision: as in `load_transformer`.  dtype: of the tensors that are not quantised; None: bfloat16, or
    float16 for a transformer that was trained in it.  embedding: how the token embedding of Gemma-2 is stored, see
    `policy.chosen_format`.  tokenizer: a tokenizer.model for a Gemma-2 without one.  inputs: the largest absolute input
    of layers, by their names, see `calibration.py`.  overwrite: replace `target`.  progress: called with how many
    tensors are done, and of how many.

    Returns the errors and sizes of all layers. Raises CheckpointError for a file that is not such a model, is damaged
    or is quantised already, InputError for anything else; then there is no new file.
    """
    model = prepare(
        source,
        target,
        format,
        variant=variant,
        trained_precision=trained_precision,
        dtype=dtype,
        embedding=embedding,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )
    formats = {key: chosen_format(key, format, embedding) for key in model.tensors}
    _check_inputs(inputs or {}, formats)
    report = Report(
        source=str(source), target=str(target), model=model.words, format=format, dtype=str(model.dtype)[6:]
    )
    with new_file(Path(target), overwrite=overwrite) as partial, _sink(model, formats, partial) as sink:
        for number, (key, form) in enumerate(formats.items(), 1):
            tensor = model.tensors.pop(key)
            report.before += _bytes(tensor)
            if form is None:
                _check_range(tensor, model, key, model.dtype)
                report.after += sink.plain(key, tensor)
            else:
                layer = sink.layer(key, tensor, form, (inputs or {}).get(key.removesuffix(".weight")))
                report.layers.append(layer)
                report.after += layer.after
                give_back_memory()
            if progress is not None:
                progress(number, len(formats))
        for key, tensor in model.beside.items():
            report.before += _bytes(tensor)
            report.after += sink.beside(key, tensor)
    if changed := [layer for layer in report.layers if layer.wanted]:
        log.warning(
            "%d of %d layers are not in %s, which does not fit their width: they are in %s",
            len(changed),
            len(report.layers),
            format,
            ", ".join(sorted({layer.format for layer in changed})),
        )
    return report


def prepare(
    source: str | Path,
    target: str | Path,
    format: str,
    *,
    variant: str | None = None,
    trained_precision: str | None = None,
    dtype: torch.dtype | None = None,
    embedding: str | None = None,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
) -> Model:
    """All checks of `quantise_file`, which takes the same arguments. Tensors are not read, and nothing is written."""
    source, target = Path(source), Path(target)
    if format not in FORMATS:
        raise InputError(f'unknown format "{format}", expected one of {", ".join(FORMATS)}')
    if embedding not in (None, *EMBEDDINGS):
        raise InputError(f'unknown format of the embedding "{embedding}", expected {", ".join(EMBEDDINGS)}')
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype={dtype!r}, expected torch.float32, torch.bfloat16, torch.float16 or None")
    if (target.suffix.lower() == ".gguf") != (format in GGUF):
        raise InputError(f"{target}: {format} makes a {'.gguf' if format in GGUF else '.safetensors'} file: name it so")
    _check_places(source, target, overwrite)
    if format not in GGUF:
        check_available(format)
    model = open_model(source, variant=variant, trained_precision=trained_precision, dtype=dtype, tokenizer=tokenizer)
    if format in GGUF and model.prefix:
        raise InputError(f"{source} is a Gemma-2, which is not written as GGUF: choose another format for it")
    return model


def open_model(
    source: Path,
    *,
    variant: str | None = None,
    trained_precision: str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | None = None,
) -> Model:
    """A SANA transformer or a Gemma-2, checked as strictly as for loading. Tensors are read when they are used.

    Raises CheckpointError, InputError.
    """
    checkpoint = read_checkpoint(component_folder(source, "transformer"))
    with naming(checkpoint.source):
        _refuse_quantised(checkpoint.tensors, checkpoint)
        if transformer_prefix(checkpoint.tensors) is None:
            return _gemma(checkpoint, source, dtype, tokenizer)
    return _transformer(checkpoint, source, dtype, variant, trained_precision)


def _transformer(
    checkpoint: Checkpoint, source: Path, dtype: torch.dtype | None, variant: str | None, trained_precision: str | None
) -> Model:
    canonical = canonical_transformer(checkpoint.tensors)
    with naming(checkpoint.source, canonical.original_key):
        found = detect(
            canonical.tensors,
            source=checkpoint.tensors,
            metadata=checkpoint.metadata,
            folder_config=checkpoint.config,
            variant=variant,
            trained_precision=trained_precision,
        )
        tensors = _strict(canonical, SanaTransformer(found.config, Kit(device="meta")).state_dict())
    sampling = found.sampling
    if (source / "model_index.json").is_file():  # its scheduler says more than the transformer
        sampling = released_sampling(pipeline_files(source), found.config, variant)
    dtype = dtype or run_dtypes(found.config)[0]
    if warning := precision_warning(found.config, dtype):
        log.warning("%s: %s", checkpoint.source, warning)
    return Model(
        source=checkpoint.source,
        words=found.words,
        tensors=tensors,
        dtype=dtype,
        metadata={"config": json.dumps(asdict(found.config)), "sampling": json.dumps(asdict(sampling))},
        original_key=canonical.original_key,
    )


def _gemma(checkpoint: Checkpoint, source: Path, dtype: torch.dtype | None, tokenizer: str | Path | None) -> Model:
    try:
        found = gemma2_tensors(checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(
            f"expected a SANA transformer or a Gemma-2, found {describe(checkpoint.tensors)}: choose the file of one"
        ) from error
    config = text_config(checkpoint, found)
    tensors = _strict(found.canonical, build_gemma2(config).state_dict())
    beside = {}
    if (spiece := found.spiece) is None:
        spiece = _tokenizer_bytes(source, tokenizer)
    if spiece is None:
        log.warning(
            "%s: it comes without a %s, which ComfyUI needs inside the new file: name one with --tokenizer",
            checkpoint.source,
            TOKENIZER_FILE,
        )
    else:
        beside[SPIECE_KEY] = spiece
    if config != TextConfig():
        beside[GEMMA_CONFIG_KEY] = mark(asdict(config))
    return Model(
        source=checkpoint.source,
        words=f"Gemma-2, {config.num_hidden_layers} layers of {config.hidden_size}",
        tensors=tensors,
        dtype=dtype or torch.bfloat16,
        metadata={"config": json.dumps(asdict(config))},
        original_key=found.canonical.original_key,
        prefix="model.",
        beside=beside,
    )


def _tokenizer_bytes(source: Path, tokenizer: str | Path | None) -> Tensor | None:
    """A SentencePiece model that is named, or lies in the folder of a text encoder or beside it."""
    if tokenizer is None:
        places = [source, source / "tokenizer", source.parent / "tokenizer"] if source.is_dir() else []
        files = [place / TOKENIZER_FILE for place in places]
    else:
        given = Path(tokenizer)
        files = [given / TOKENIZER_FILE if given.is_dir() else given]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        if tokenizer is not None:
            raise CheckpointError(f"{files[0]}: there is no such file: name a {TOKENIZER_FILE}")
        return None
    try:
        if path.stat().st_size > LARGEST_TOKENIZER:
            raise CheckpointError(f"{path} is no {TOKENIZER_FILE}: it is too large")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    tokenizer_from_bytes(content, str(path))  # refuses what is none
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _strict(canonical: Canonical, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the order of the network, 1x1 convolutions as matrices. Raises CheckpointError if they do not
    fit.
    """
    tensors = fitted(canonical.tensors, expected)
    check_fit(tensors, expected, canonical)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{canonical.original_key(key)} holds {str(tensor.dtype)[6:]}, expected fractions")
        check_stored(canonical.original_key(key), tensor)
    return {key: tensors[key] for key in expected}


def _refuse_quantised(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    layers = quantised_layers(tensors, checkpoint.metadata)
    for layer, form in layers.items():
        raise CheckpointError(
            f"it is quantised already ({form.name}, see {layer}): quantise the file that it was made from, as errors "
            "add up"
        )
    refuse_other_tools(tensors, config=checkpoint.config, instead="or use the file that it was made from")


def _check_places(source: Path, target: Path, overwrite: bool) -> None:
    """Raise InputError if the new file has no place, or would replace the model or become a part of its folder."""
    try:
        if source.is_dir():
            inside = target.resolve().parent.is_relative_to(source.resolve())
        else:
            inside = target.exists() and any(target.samefile(file) for file in joined_parts(source)[0] if file.exists())
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error})") from error
    if inside:
        raise InputError(f"{target} is a part of the model that is read: name another file")
    check_target(target, overwrite)


def _check_inputs(inputs: Mapping[str, float], formats: Mapping[str, str | None]) -> None:
    """Raise InputError for an input of a layer that is not quantised, or that is no number above 0."""
    for name, largest in inputs.items():
        if formats.get(f"{name}.weight") is None:
            raise InputError(f"inputs of {name} were measured, which is no layer that is quantised")
        if not 0.0 <= largest < float("inf"):
            raise InputError(f"the largest input of {name} is {largest}, expected a number")


def _check_range(tensor: Tensor, model: Model, key: str, dtype: torch.dtype) -> None:
    """Raise InputError if some numbers are not finite, or would not be in this number type."""
    for piece in tensor.reshape(-1).split(PIECE):
        if not piece.to(dtype).isfinite().all():
            if piece.float().isfinite().all():
                raise InputError(f"{model.called(key)} leaves the range of {str(dtype)[6:]}: choose bfloat16")
            raise InputError(
                f"{model.called(key)} has numbers that are not finite (NaN or infinity): the file is damaged"
            )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Sink(ABC):
    """A file that is being written."""

    @abstractmethod
    def plain(self, key: str, tensor: Tensor) -> int:
        """Write a tensor that is not quantised. Returns its bytes."""

    @abstractmethod
    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        """Quantise and write a weight. largest: the largest absolute input of its layer, if it is known."""

    @abstractmethod
    def beside(self, name: str, tensor: Tensor) -> int:
        """Write a tensor that belongs to no network, under its own name. Returns its bytes."""


class SafetensorsSink(Sink):
    """ComfyUI's format: packed weights, side tensors and marks."""

    def __init__(self, writer: SafetensorsWriter, model: Model) -> None:
        self.writer, self.model = writer, model

    def plain(self, key: str, tensor: Tensor) -> int:
        return self.writer.add(f"{self.model.prefix}{key}", tensor, self.model.dtype)

    def beside(self, name: str, tensor: Tensor) -> int:
        return self.writer.add(name, tensor)

    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        made = quantise(weight, form, input_scale=input_scale(form, largest), name=self.model.called(key))
        layer = f"{self.model.prefix}{key.removesuffix('.weight')}"
        return LayerReport(
            name=key,
            kind=str(kind_of_layer(key)),
            format=made.format,
            error=made.error(weight),
            wanted=None if made.format == form else form,
            before=_bytes(weight),
            after=sum(self.writer.add(f"{layer}.{side}", tensor) for side, tensor in made.parts.items()),
        )


class GgufSink(Sink):
    """GGUF: a weight is blocks of numbers with their scales. writer: a `checkpoint.gguf_writer.GgufWriter`."""

    def __init__(self, writer: Any, model: Model) -> None:
        self.writer, self.model = writer, model

    def plain(self, key: str, tensor: Tensor) -> int:
        self.writer.add(key, tensor)
        return self._size(tensor)

    def beside(self, name: str, tensor: Tensor) -> int:
        raise NotImplementedError(name)

    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        _check_range(weight, self.model, key, torch.float32)
        found = gguf_fitting(form, weight.shape[1])
        pieces = ((weight[rows], read_back) for rows, read_back in self.writer.chunks(key, weight))
        return LayerReport(
            name=key,
            kind=str(kind_of_layer(key)),
            format=found or str(self.model.dtype)[6:],
            error=relative_error(pieces),
            wanted=None if found else form,
            before=_bytes(weight),
            after=weight.numel() * GGUF[found] // GGUF_BLOCK if found else self._size(weight),
        )

    def _size(self, tensor: Tensor) -> int:
        return tensor.numel() * self.model.dtype.itemsize


@contextmanager
def _sink(model: Model, formats: Mapping[str, str | None], path: Path) -> Iterator[Sink]:
    if GGUF.keys().isdisjoint(formats.values()):
        layers = sum(form is not None for form in formats.values())
        tensors = len(formats) + SIDES * layers + len(model.beside)
        with SafetensorsWriter(path, tensors=tensors, metadata=model.metadata) as writer:
            yield SafetensorsSink(writer, model)
    else:
        from ..checkpoint.gguf_writer import GgufWriter, Planned  # needs the optional package gguf

        plain = GGUF_PLAIN[model.dtype]
        plan = [
            Planned(key, tuple(tensor.shape), _gguf_type(formats[key], tensor) or plain)
            for key, tensor in model.tensors.items()
        ]
        with GgufWriter(path, GGUF_ARCHITECTURE, plan, model.metadata) as writer:
            yield GgufSink(writer, model)


def _gguf_type(form: str | None, tensor: Tensor) -> str | None:
    form = form and gguf_fitting(form, tensor.shape[-1])
    return form and form.removeprefix("gguf-")
