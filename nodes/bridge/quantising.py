"""Quantised files made inside ComfyUI: where they go, progress, a stop that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import comfy.model_management
import folder_paths

from ...sana_core.errors import InputError, printable
from ...sana_core.pipeline.request import Request
from ...sana_core.quantiser.calibration import largest_inputs
from ...sana_core.quantiser.convert import Model, prepare, write_quantised
from ...sana_core.quantiser.policy import CALIBRATED, GGUF
from ...sana_core.text.detect import SPIECE_KEY
from .new_files import called, own_folder, plain_name
from .paths import chosen_file
from .progress import counted


def quantise_model(
    kind: str,
    name: str,
    format: str,
    filename: str,
    *,
    embedding: str | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    prompts: Sequence[str] = (),
    text_encoder: str | None = None,
    overwrite: bool = False,
) -> str:
    """Quantise a listed model file. Returns the report, with the name of the new file first.

    A file that is there stays unless overwrite is set, and the report says so.

    kind: "diffusion_models" or "text_encoders".  filename: of the new file, "" for one made of both names.  prompts: to
    measure inputs with, by the text encoder of that name if it is a transformer.  Raises CheckpointError, InputError.
    """
    folder = own_folder(kind)
    file = _new_name(kind, name, format, filename)
    target, called = folder / file, f"{kind}/{file}"
    there = folder_paths.get_full_path(kind, str(file))
    if there and not overwrite:
        return f"{called} is there already: nothing was made. Turn on overwrite to make it again"
    if there and Path(there) != target:  # the loaders would go on reading that one
        raise InputError(f"{called} is there already, as {printable(there)}: choose another filename")
    if prompts and format not in CALIBRATED:
        raise InputError(f"{format} stores no scale of the inputs: leave prompts empty, or choose fp8 or nvfp4")
    with chosen_file(kind, name) as path:
        options: dict[str, Any] = {"variant": variant, "trained_precision": trained_precision}
        model = prepare(path, target, format, embedding=embedding, overwrite=overwrite, **options)
        _check_kind(kind, path, model)
        inputs = _inputs(path, prompts, text_encoder, options) if prompts else None
        report = write_quantised(
            model,
            target,
            format,
            embedding=embedding,
            inputs=inputs,
            overwrite=overwrite,
            progress=counted("layer"),
        )
    return "\n".join([called, *report.lines()])


def _check_kind(kind: str, path: str, model: Model) -> None:
    """Raise InputError for a file that lies in the folder of the other kind, or that would load nowhere."""
    if bool(model.prefix) != (kind == "text_encoders"):
        raise InputError(f"{path} is {model.words}: move it to the other folder, and choose it there")
    if model.prefix and SPIECE_KEY not in model.beside:
        raise InputError(
            f"{path} is a Gemma-2 without tokenizer: use a file that has it inside, such as gemma_2_2b_fp16.safetensors"
        )


def _inputs(
    path: str, prompts: Sequence[str], text_encoder: str | None, options: Mapping[str, Any]
) -> dict[str, float]:
    """Measured on the host's device, of which other models make room."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    requests = [Request(prompt) for prompt in prompts]
    given = {**options, "device": comfy.model_management.get_torch_device(), "progress": counted("prompt")}
    if text_encoder is None:
        return largest_inputs(path, requests, **given)
    with chosen_file("text_encoders", text_encoder) as encoder:
        return largest_inputs(path, requests, text_encoder=encoder, **given)


def _new_name(kind: str, name: str, format: str, filename: str) -> PurePosixPath:
    """Of the new file, as the loaders list it. Raises InputError for a name that is no plain one."""
    ending = ".gguf" if format in GGUF else ".safetensors"
    given = plain_name(kind, filename or f"{PurePosixPath(name.replace(chr(92), '/')).stem}_{format}")
    if given.suffix.lower() not in (".safetensors", ".gguf"):
        return given.with_name(given.name + ending)
    if given.suffix.lower() != ending:
        raise InputError(f"{called(filename)}, but {format} makes a {ending} file")
    return given
