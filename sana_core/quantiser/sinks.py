"""The files that quantised networks are written to, tensor by tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.gguf_writer import GgufWriter, Planned
from ..checkpoint.safetensors_stream import PIECE, SafetensorsWriter
from ..errors import InputError
from .making import input_scale, quantise, relative_error
from .policy import GGUF, GGUF_BLOCK, gguf_fitting, kind_of_layer
from .report import LayerReport
from .source import Model

SIDES = 6  # the most tensors that a quantised layer has beside its weight
GGUF_ARCHITECTURE = "sana"
GGUF_PLAIN = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def check_range(tensor: Tensor, model: Model, key: str, dtype: torch.dtype) -> None:
    """Raise InputError if some numbers are not finite, or would not be in this number type."""
    for piece in tensor.reshape(-1).split(PIECE):
        if not piece.to(dtype).isfinite().all():
            if piece.float().isfinite().all():
                raise InputError(f"{model.called(key)} leaves the range of {str(dtype)[6:]}: choose bfloat16")
            raise InputError(
                f"{model.called(key)} has numbers that are not finite (NaN or infinity): the file is damaged"
            )


def size_of(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()


class Sink(ABC):
    """A file that is being written."""

    @abstractmethod
    def plain(self, key: str, tensor: Tensor) -> int:
        """Write a tensor that is not quantised. Returns its bytes."""

    @abstractmethod
    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        """Quantise and write a weight. largest: the largest absolute input of its layer, if it is known."""


class SafetensorsSink(Sink):
    """ComfyUI's format: packed weights, side tensors and marks."""

    def __init__(self, writer: SafetensorsWriter, model: Model) -> None:
        self.writer, self.model = writer, model

    def plain(self, key: str, tensor: Tensor) -> int:
        return self.writer.add(f"{self.model.prefix}{key}", tensor, self.model.dtype)

    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        made = quantise(weight, form, input_scale=input_scale(form, largest), name=self.model.called(key))
        layer = f"{self.model.prefix}{key.removesuffix('.weight')}"
        return LayerReport(
            name=key,
            kind=str(kind_of_layer(key)),
            format=made.format,
            error=made.error(weight),
            wanted=None if made.format == form else form,
            before=size_of(weight),
            after=sum(self.writer.add(f"{layer}.{side}", tensor) for side, tensor in made.parts.items()),
        )


class GgufSink(Sink):
    """GGUF: a weight is blocks of numbers with their scales."""

    def __init__(self, writer: GgufWriter, model: Model) -> None:
        self.writer, self.model = writer, model

    def plain(self, key: str, tensor: Tensor) -> int:
        self.writer.add(key, tensor)
        return self._size(tensor)

    def layer(self, key: str, weight: Tensor, form: str, largest: float | None) -> LayerReport:
        check_range(weight, self.model, key, torch.float32)
        found = gguf_fitting(form, weight.shape[1])
        pieces = ((weight[rows], read_back) for rows, read_back in self.writer.chunks(key, weight))
        return LayerReport(
            name=key,
            kind=str(kind_of_layer(key)),
            format=found or str(self.model.dtype)[6:],
            error=relative_error(pieces),
            wanted=None if found else form,
            before=size_of(weight),
            after=weight.numel() * GGUF[found] // GGUF_BLOCK if found else self._size(weight),
        )

    def _size(self, tensor: Tensor) -> int:
        return tensor.numel() * self.model.dtype.itemsize


@contextmanager
def opened_sink(model: Model, formats: Mapping[str, str | None], path: Path) -> Iterator[Sink]:
    """The file at `path`, for the block. formats: of the command line, by the weights' names; None: not quantised."""
    if GGUF.keys().isdisjoint(formats.values()):
        layers = sum(form is not None for form in formats.values())
        tensors = len(formats) + SIDES * layers + len(model.beside)
        with SafetensorsWriter(path, tensors=tensors, metadata=model.metadata) as writer:
            for name, tensor in model.beside.items():
                writer.add(name, tensor)
            yield SafetensorsSink(writer, model)
    else:
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
