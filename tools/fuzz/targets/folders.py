"""The JSON files of folders: configurations, indices of parts, schedulers."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from sana_core.checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from sana_core.sources import pipeline_files, released_sampling
from sana_core.text.load import load_text_encoder

from ..target import Files, Target
from . import networks

STEM = "diffusion_pytorch_model"
DIFFUSERS = {
    "num_cross_attention_heads": 2,
    "sample_size": 32,
    "interpolation_scale": None,
    "quantization_config": None,
}
SCHEDULER = {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3.0, "use_flow_sigmas": True,
             "prediction_type": "flow_prediction", "solver_order": 2, "use_karras_sigmas": False}  # fmt: skip
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": False}


@functools.cache
def transformers() -> list[Files]:
    whole = networks.file(networks.weights())[networks.FILE]
    keys = list(networks.weights())
    cut = len(keys) // 2
    parts = [{key: networks.weights()[key] for key in own} for own in (keys[:cut], keys[cut:])]
    names = [f"{STEM}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"metadata": {"total_size": 1}, "weight_map": {key: names[key in keys[cut:]] for key in keys}}
    saved = {name: networks.file(part)[networks.FILE] for name, part in zip(names, parts)}
    own = json.dumps(networks.statement()).encode()
    diffusers = json.dumps(DIFFUSERS).encode()
    return [
        {"config.json": own, f"{STEM}.safetensors": whole},
        {"config.json": diffusers, f"{STEM}.safetensors": whole},
        {"config.json": diffusers, f"{STEM}.safetensors.index.json": json.dumps(index).encode(), **saved},
    ]


@functools.cache
def pipelines() -> list[Files]:
    entries = {"_class_name": "SanaPipeline", "transformer": ["diffusers", "SanaTransformer2DModel"]}
    shared = {
        "model_index.json": json.dumps(entries).encode(),
        **{f"transformer/{name}": content for name, content in transformers()[1].items()},
    }
    return [
        {**shared, "scheduler/scheduler_config.json": json.dumps(scheduler).encode()}
        for scheduler in (
            SCHEDULER,
            EULER,
            {"_class_name": "SCMScheduler"},
            {"_class_name": "DDIMScheduler", "shift": 2},
        )
    ]


@functools.cache
def others() -> list[Files]:
    """A folder for each of the other networks."""
    tensors, text = networks.text_tensors()
    spiece = tensors["spiece_model"].numpy().tobytes()
    weights = networks.file({key: tensor for key, tensor in tensors.items() if key != "spiece_model"})[networks.FILE]
    config = json.dumps({**text, "rope_theta": 10000.0, "hidden_activation": "gelu_pytorch_tanh"}).encode()
    control = json.dumps(DIFFUSERS).encode()
    return [
        {
            "text_encoder/config.json": config,
            "text_encoder/model.safetensors": weights,
            "tokenizer/tokenizer.model": spiece,
        },
        {"controlnet/config.json": control, f"controlnet/{STEM}.safetensors": networks.controlnets()[0][networks.FILE]},
        {"vae/config.json": b"{}", f"vae/{STEM}.safetensors": networks.autoencoders()[0][networks.FILE]},
    ]


def read_transformer(folder: Path) -> None:
    load_transformer(folder, device="meta")


def read_pipeline(folder: Path) -> None:
    files = pipeline_files(folder)
    released_sampling(files, load_transformer(files.transformer, device="meta").config)


def read_other(folder: Path) -> None:
    loads = {"text_encoder": load_text_encoder, "controlnet": load_controlnet, "vae": load_autoencoder}
    for name, load in loads.items():
        if (folder / name).is_dir():
            load(folder / name)


TARGETS = (
    Target(name="folder", seeds=transformers, read=read_transformer),
    Target(name="pipeline", seeds=pipelines, read=read_pipeline),
    Target(name="other_folders", seeds=others, read=read_other),
)
