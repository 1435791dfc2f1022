"""Files of training settings, our own and NVIDIA's."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from sana_core.training.settings_file import OPTIONS, read_settings

from ..target import Files, Target

OWN = {"steps": 100, "rate": 1e-4, "optimizer": "came", "buckets": False, "model": "sana.pth", "betas": [0.9, 0.99]}
NVIDIA = {
    "data": {"data_dir": ["pictures"], "image_size": 512, "caption_proportion": {"prompt": 1}},
    "model": {"image_size": 512, "mixed_precision": "bf16", "resume_from": {"checkpoint": None, "load_ema": False}},
    "scheduler": {"flow_shift": 3.0, "weighting_scheme": "logit_normal", "predict_flow_v": True},
    "train": {
        "train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "optimizer": {"type": "CAMEWrapper", "lr": 1e-4, "betas": [0.9, 0.999, 0.9999], "eps": [1e-30, 1e-16]},
        "auto_lr": {"rule": "sqrt"},
        "lr_schedule_args": {"num_warmup_steps": 2000},
    },
}


@functools.cache
def seeds() -> list[Files]:
    """YAML contains JSON, so `settings.json` is mutated as JSON and read as YAML."""
    import yaml

    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in OWN.items())
    values = (OWN, NVIDIA)
    return [
        *({"settings.json": json.dumps(value).encode()} for value in values),
        *({"settings.yaml": yaml.safe_dump(value).encode()} for value in values),
        *([{"settings.toml": toml.encode()}] if sys.version_info >= (3, 11) else []),
    ]


def read(folder: Path) -> None:
    path = next(folder.iterdir())
    if path.suffix == ".json":
        path = path.rename(path.with_suffix(".yaml"))
    read_settings(path, OPTIONS)


TARGETS = (Target(name="settings_file", seeds=seeds, read=read),)
