"""Make a quantised file of a SANA transformer or a Gemma-2, one tensor at a time.

A transformer gets diffusers' names without prefix, a Gemma-2 the layout of ComfyUI's single file. So ComfyUI's own
loaders take both. Everything that can be refused is refused before the file is begun.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..checkpoint.folders import joined_parts
from ..checkpoint.new_file import check_target, new_file
from ..errors import InputError
from .making import check_available, give_back_memory
from .policy import EMBEDDINGS, FORMATS, GGUF, chosen_format
from .report import Report
from .sinks import check_range, opened_sink, size_of
from .source import Model, open_model

log = logging.getLogger("sana")
Progress = Callable[[int, int], None]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    return write_quantised(
        model, target, format, embedding=embedding, inputs=inputs, overwrite=overwrite, progress=progress
    )


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
    """The first half of `quantise_file`, which takes the same arguments: all checks. Tensors are not read, and nothing
    is written.
    """
    source, target = Path(source), Path(target)
    if format not in FORMATS:
        raise InputError(f'unknown format "{format}", expected one of {", ".join(FORMATS)}')
    if embedding not in (None, *EMBEDDINGS):
        raise InputError(f'unknown format of the embedding "{embedding}", expected {", ".join(EMBEDDINGS)}')
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype={dtype!r}, expected torch.float32, torch.bfloat16, torch.float16 or None")
    if (target.suffix.lower() == ".gguf") != (format in GGUF):
        raise InputError(f"{target}: {format} makes a {'.gguf' if format in GGUF else '.safetensors'} file: name it so")
    check_places(source, target, overwrite)
    if format not in GGUF:
        check_available(format)
    model = open_model(source, variant=variant, trained_precision=trained_precision, dtype=dtype, tokenizer=tokenizer)
    if format in GGUF and model.prefix:
        raise InputError(f"{source} is a Gemma-2, which is not written as GGUF: choose another format for it")
    return model


def write_quantised(
    model: Model,
    target: str | Path,
    format: str,
    *,
    embedding: str | None = None,
    inputs: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """The second half of `quantise_file`, which takes the same arguments, for what `prepare` has returned. The tensors
    are taken out of `model`.
    """
    formats = {key: chosen_format(key, format, embedding) for key in model.tensors}
    _check_inputs(inputs or {}, formats)
    report = Report(
        source=model.source, target=str(target), model=model.words, format=format, dtype=str(model.dtype)[6:]
    )
    report.before = report.after = sum(map(size_of, model.beside.values()))
    with new_file(Path(target), overwrite=overwrite) as partial, opened_sink(model, formats, partial) as sink:
        for number, (key, form) in enumerate(formats.items(), 1):
            tensor = model.tensors.pop(key)
            report.before += size_of(tensor)
            if form is None:
                check_range(tensor, model, key, model.dtype)
                report.after += sink.plain(key, tensor)
            else:
                layer = sink.layer(key, tensor, form, (inputs or {}).get(key.removesuffix(".weight")))
                report.layers.append(layer)
                report.after += layer.after
                give_back_memory()
            if progress is not None:
                progress(number, len(formats))
    if changed := [layer for layer in report.layers if layer.wanted]:
        log.warning(
            "%d of %d layers are not in %s, which does not fit their width: they are in %s",
            len(changed),
            len(report.layers),
            format,
            ", ".join(sorted({layer.format for layer in changed})),
        )
    return report


def check_places(source: Path, target: Path, overwrite: bool) -> None:
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
