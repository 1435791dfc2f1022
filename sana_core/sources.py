"""What a pipeline is made from: its files, and how the model was released to be sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .checkpoint.detect import native_size
from .checkpoint.files import component_folder, read_checkpoint
from .checkpoint.statements import stated_config
from .config import SamplingDefaults, TransformerConfig
from .errors import CheckpointError, InputError
from .presets import sampling_defaults

NANO = Path(__file__).parent / "nano"
PARTS = ("transformer", "autoencoder", "text_encoder")
OPTIONAL_PARTS = ("tokenizer", "controlnet")
SCHEDULERS = {  # diffusers' class -> (sampler, the key of its shift)
    "DPMSolverMultistepScheduler": ("flow_dpm", "flow_shift"),
    "FlowMatchEulerDiscreteScheduler": ("flow_euler", "shift"),
}


@dataclass(frozen=True, kw_only=True)
class PipelineFiles:
    """Paths of the networks, each a file or a folder. tokenizer None: inside or beside the text encoder."""

    transformer: Path
    autoencoder: Path
    text_encoder: Path
    tokenizer: Path | None = None
    controlnet: Path | None = None
    scheduler: Path | None = None  # diffusers' scheduler_config.json


NANO_FILES = PipelineFiles(  # in folders named as ComfyUI's, which lists them in its menus
    transformer=NANO / "diffusion_models" / "sana_nano.safetensors",
    autoencoder=NANO / "vae" / "sana_nano_vae.safetensors",
    text_encoder=NANO / "text_encoders" / "sana_nano_text.safetensors",
)


EMBEDDED = {
    "nano": NANO_FILES,
    "nano-sprint": replace(NANO_FILES, transformer=NANO / "diffusion_models" / "sana_nano_sprint.safetensors"),
}


def pipeline_files(source: str | Path | Mapping[str, str | Path]) -> PipelineFiles:
    """A name in EMBEDDED, a diffusers pipeline folder, or paths by name. Raises InputError for anything else."""
    if isinstance(source, Mapping):
        return _named_files(source)
    if isinstance(source, str) and source in EMBEDDED:
        return EMBEDDED[source]
    folder = Path(source)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder} is not a diffusers pipeline folder (no model_index.json in it): name one, or an embedded model "
            f"({', '.join(EMBEDDED)}), or give transformer, autoencoder and text encoder as single files"
        )
    scheduler, controlnet = folder / "scheduler" / "scheduler_config.json", folder / "controlnet"
    return PipelineFiles(
        transformer=folder,
        autoencoder=folder,
        text_encoder=folder,
        controlnet=controlnet if controlnet.is_dir() else None,
        scheduler=scheduler if scheduler.is_file() else None,
    )


def released_sampling(files: PipelineFiles, config: TransformerConfig, variant: str | None = None) -> SamplingDefaults:
    """How the model says it is sampled: the JSON under `sampling` in its file, else diffusers' scheduler, else the
    published releases.
    """
    header = read_checkpoint(component_folder(files.transformer, "transformer"), "meta")
    size = native_size(header.tensors, stated_config(header.metadata, header.config), variant)
    defaults = sampling_defaults(config, size)
    if files.scheduler is not None:
        scheduler = _json_object(_text(files.scheduler), str(files.scheduler))
        sampler, shift = SCHEDULERS.get(scheduler.get("_class_name", ""), (defaults.sampler, ""))
        defaults = _stated(
            defaults, {"sampler": sampler, "shift": scheduler.get(shift, defaults.shift)}, str(files.scheduler)
        )
    if "sampling" in header.metadata:
        where = f"{header.source}, metadata entry `sampling`"
        defaults = _stated(defaults, _json_object(header.metadata["sampling"], where), where)
    return defaults


def _named_files(source: Mapping[str, str | Path]) -> PipelineFiles:
    missing = [name for name in PARTS if not source.get(name)]
    unknown = [name for name in source if name not in (*PARTS, *OPTIONAL_PARTS)]
    if missing or unknown:
        problems = [*(f"{name} is missing" for name in missing), *(f"{name} is unknown" for name in unknown)]
        needed, optional = ", ".join(PARTS), " and ".join(OPTIONAL_PARTS)
        raise InputError(f"a pipeline of single files needs {needed} and may have {optional}: {', '.join(problems)}")
    return PipelineFiles(**{name: Path(path) for name, path in source.items() if path})


def _stated(defaults: SamplingDefaults, stated: Mapping[str, Any], where: str) -> SamplingDefaults:
    """The defaults with every setting that is stated, in the type it has to have."""
    try:
        return replace(
            defaults, **{name: type(value)(stated[name]) for name, value in asdict(defaults).items() if name in stated}
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: a sampling setting is not a number ({error}); download it again") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): download it again") from error


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is a JSON {type(value).__name__}, expected an object")
    return value
