"""Quantised files made inside ComfyUI: where they go, progress, a stop that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import comfy.model_management
import comfy.utils
import folder_paths

from ...sana_core.errors import InputError
from ...sana_core.pipeline.request import Request
from ...sana_core.quantiser.calibration import largest_inputs
from ...sana_core.quantiser.convert import prepare, quantise_file
from ...sana_core.quantiser.policy import GGUF
from ...sana_core.sources import NANO
from .paths import chosen_file

CALIBRATED = ("fp8", "nvfp4")  # formats with a stored scale of the input


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
    target = _target(kind, name, format, filename)
    called = f"{kind}/{target.relative_to(_folder(kind)).as_posix()}"
    if target.exists() and not overwrite:
        return f"{called} is there already: nothing was made. Turn on overwrite to make it again"
    if prompts and format not in CALIBRATED:
        raise InputError(f"{format} stores no scale of the inputs: leave prompts empty, or choose fp8 or nvfp4")
    with chosen_file(kind, name) as path:
        inputs = None
        if prompts:
            prepare(path, target, format, variant=variant, trained_precision=trained_precision, overwrite=overwrite)
            inputs = _inputs(path, prompts, text_encoder, variant, trained_precision)
        report = quantise_file(
            path,
            target,
            format,
            variant=variant,
            trained_precision=trained_precision,
            embedding=embedding,
            inputs=inputs,
            overwrite=overwrite,
            progress=_progress(),
        )
    return "\n".join([called, *report.lines()])


def _inputs(
    path: str, prompts: Sequence[str], text_encoder: str | None, variant: str | None, trained_precision: str | None
) -> dict[str, float]:
    """Measured on the host's device, of which other models make room."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    requests = [Request(prompt) for prompt in prompts]
    options = {"variant": variant, "trained_precision": trained_precision, "progress": _progress()}
    device = comfy.model_management.get_torch_device()
    if text_encoder is None:
        return largest_inputs(path, requests, device=device, **options)
    with chosen_file("text_encoders", text_encoder) as encoder:
        return largest_inputs(path, requests, text_encoder=encoder, device=device, **options)


def _target(kind: str, name: str, format: str, filename: str) -> Path:
    """The new file. Raises InputError for a name that is no plain one, perhaps in subfolders that are there."""
    ending = ".gguf" if format in GGUF else ".safetensors"
    given = PurePosixPath((filename or f"{PurePosixPath(name.replace(chr(92), '/')).stem}_{format}").replace("\\", "/"))
    if given.is_absolute() or ".." in given.parts or ":" in str(given) or not given.name.strip(". "):
        raise InputError(f'the new file is called "{filename}": give a name in models/{kind}, without a path to it')
    if given.suffix.lower() not in (".safetensors", ".gguf"):
        given = given.with_name(given.name + ending)
    elif given.suffix.lower() != ending:
        raise InputError(f'the new file is called "{filename}", but {format} makes a {ending} file')
    return _folder(kind).joinpath(*given.parts)


def _folder(kind: str) -> Path:
    """The user's own folder of a kind: not the pack's, and rather one of that name than models/unet and the like."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    own = [folder for folder in folders if not folder.is_relative_to(NANO)]
    if not own:
        raise InputError(f"ComfyUI has no folder for {kind}")
    folder = min(own, key=lambda folder: (folder.name != kind, not folder.is_dir()))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _progress() -> Callable[[int, int], None]:
    """Moves the node's bar, and stops where the user wants it."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress
