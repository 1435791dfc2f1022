"""What a pipeline is made from: its files, and how the model was released to be sampled."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .checkpoint.detect import native_size
from .checkpoint.files import component_folder, read_checkpoint
from .checkpoint.fit import naming
from .checkpoint.read_json import read_object_file
from .checkpoint.statements import stated_config, stated_sampling, with_stated_sampling
from .config import SamplingDefaults, TransformerConfig
from .errors import InputError, listed
from .presets import sampling_defaults

log = logging.getLogger("sana")
NANO = Path(__file__).parent / "nano"
PARTS = ("transformer", "autoencoder", "text_encoder")
OPTIONAL_PARTS = ("tokenizer", "controlnet")


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

NANO_PREVIEW = NANO / "preview.safetensors"
"""Colours of its latents, see `pictures/preview.py`."""
NANO_SIZES = (224, 6, 192)


def is_embedded(config: TransformerConfig) -> bool:
    """Is this the network of the embedded models? No other has these sizes."""
    return (config.hidden_size, config.depth, config.caption_channels) == NANO_SIZES


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """What a scheduler class of diffusers is here. shift: its setting of the flow shift, which is 1 if it states none.
    followed: values of its other settings that mean what the sampler does.
    """

    sampler: str
    shift: str | None
    followed: Mapping[str, Any]


PLAIN_GRID = {
    "num_train_timesteps": 1000,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}
SCHEDULERS = {
    "DPMSolverMultistepScheduler": Scheduler(
        sampler="flow_dpm",
        shift="flow_shift",
        followed=PLAIN_GRID
        | {
            "use_lu_lambdas": False,
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
            "final_sigmas_type": "zero",
            "thresholding": False,
        },
    ),
    "FlowMatchEulerDiscreteScheduler": Scheduler(
        sampler="flow_euler",
        shift="shift",
        followed=PLAIN_GRID | {"invert_sigmas": False, "stochastic_sampling": False},
    ),
    "SCMScheduler": Scheduler(
        sampler="scm",
        shift=None,
        followed={"num_train_timesteps": 1000, "prediction_type": "trigflow", "sigma_data": 0.5},
    ),
}
DIFFUSERS_SHIFT = 1.0  # of schedulers that state none, or null


def pipeline_files(source: str | Path | Mapping[str, str | Path]) -> PipelineFiles:
    """A name in EMBEDDED, a diffusers pipeline folder, or paths by name. Raises InputError for anything else."""
    if isinstance(source, Mapping):
        return _named_files(source)
    if isinstance(source, str) and source in EMBEDDED:
        return EMBEDDED[source]
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"a pipeline comes from a name, a folder or paths by name, not from a {type(source).__name__}")
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


def embedded_files(name: str) -> dict[str, Path]:
    """The files of a model in EMBEDDED by the names that `pipeline_files` takes."""
    files = EMBEDDED[name]
    return {part: Path(getattr(files, part)) for part in PARTS}


def released_sampling(files: PipelineFiles, config: TransformerConfig, variant: str | None = None) -> SamplingDefaults:
    """How the model says it is sampled: the JSON under `sampling` in its file, else diffusers' scheduler, else the
    published releases. Warns of settings of the scheduler that no sampler here follows.

    Raises CheckpointError.
    """
    header = read_checkpoint(component_folder(files.transformer, "transformer"), "meta")
    with naming(header.source):
        size = native_size(header.tensors, stated_config(header.metadata, header.config), variant)
    defaults = sampling_defaults(config, size)
    if files.scheduler is not None:
        defaults = _scheduled(defaults, read_object_file(files.scheduler), config, str(files.scheduler))
    with naming(header.source):
        return with_stated_sampling(defaults, header.metadata)


def _scheduled(
    defaults: SamplingDefaults, stated: Mapping[str, Any], config: TransformerConfig, where: str
) -> SamplingDefaults:
    """`defaults` with what a scheduler_config.json says in their place, and a warning of what is not followed."""
    stated = {name: value for name, value in stated.items() if value is not None}
    name = str(stated.get("_class_name", "of no class"))
    scheduler = SCHEDULERS.get(name)
    if scheduler is None or (scheduler.sampler == "scm" and not config.guidance_embed):
        shift = stated.get("flow_shift", stated.get("shift", defaults.shift))
        found = stated_sampling(defaults, {"shift": shift}, where)
        log.warning("%s: the scheduler %s is not followed: %s", where, listed([name]), _drawn(found))
        return found
    shift = defaults.shift if scheduler.shift is None else stated.get(scheduler.shift, DIFFUSERS_SHIFT)
    found = stated_sampling(defaults, {"sampler": scheduler.sampler, "shift": shift}, where)
    others = {key: stated[key] for key, value in scheduler.followed.items() if stated.get(key, value) != value}
    if others:
        words = listed([f"{key} {json.dumps(value)}" for key, value in others.items()])
        log.warning("%s: the scheduler's %s is not followed: %s", where, words, _drawn(found))
    return found


def _drawn(sampling: SamplingDefaults) -> str:
    return f"pictures are drawn with {sampling.sampler} at shift {sampling.shift:g}, which differ from diffusers'"


def _named_files(source: Mapping[str, str | Path]) -> PipelineFiles:
    missing = [name for name in PARTS if not source.get(name)]
    unknown = [str(name) for name in source if name not in (*PARTS, *OPTIONAL_PARTS)]
    if missing or unknown:
        problems = [*(f"{name} is missing" for name in missing), *(f"{name} is unknown" for name in unknown)]
        needed, optional = ", ".join(PARTS), " and ".join(OPTIONAL_PARTS)
        raise InputError(
            f"a model of single files needs {needed} and may have {optional}: {listed(problems)}. Name all files that "
            "it needs, or a model that has the others, such as --model nano"
        )
    return PipelineFiles(**{name: Path(path) for name, path in source.items() if path})
