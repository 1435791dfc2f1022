"""Files of prompts, and what they become for a model."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from sana_core.cli.prompt_file import read_prompt_file
from sana_core.config import SamplingDefaults

from ..target import Files, Target
from . import networks

ENTRY = {"prompt": "a cat", "negative_prompt": "a dog", "seed": 3, "width": 512, "height": 512, "steps": 4,
         "guidance_scale": 4.5, "shift": 2.0, "sampler": "flow_dpm", "instruction": "none", "negative_mask": "own",
         "pag_scale": 1.0, "pag_layers": "0", "control_scale": 1.0, "batch_size": 1, "style": "Anime"}  # fmt: skip


@functools.cache
def seeds() -> list[Files]:
    lines = "\n".join([json.dumps(ENTRY), '"an apple"', json.dumps({"prompt": "x", "pag_layers": [0]})]).encode()
    whole = json.dumps([ENTRY, "an apple", {"prompt": "x", "seed": None}]).encode()
    text = "a cat\r\n\nan apple \u2028 on a table\n".encode()
    return [
        {"prompts.jsonl": lines},
        {"prompts.json": whole},
        {"prompts.txt": text},
        *({"prompts": c} for c in (lines, whole)),
    ]


def read(folder: Path) -> None:
    for request in read_prompt_file(next(folder.iterdir())):
        request.resolve(SamplingDefaults(), networks.config())


TARGETS = (Target(name="prompt_file", seeds=seeds, read=read),)
