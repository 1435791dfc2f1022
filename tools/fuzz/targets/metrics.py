"""Statistics of features, and the lists of prompts of benchmarks."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np

from sana_core.metrics.benchmarks import BENCHMARKS
from sana_core.metrics.statistics import read_statistics

from ..target import Files, Target

GENEVAL = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
MJHQ = {"0a1b": {"category": "animals", "prompt": "a cat"}, "ff02": {"category": "people", "prompt": "a man"}}


@functools.cache
def statistics() -> list[Files]:
    made = []
    for save in (np.savez, np.savez_compressed):
        content = io.BytesIO()
        save(content, mu=np.zeros(4), sigma=np.eye(4), count=np.array(9))
        made.append({"statistics.npz": content.getvalue()})
    return made


@functools.cache
def lists() -> list[Files]:
    return [
        {"geneval": "\n".join([json.dumps(GENEVAL)] * 2).encode()},
        {"mjhq": json.dumps(MJHQ).encode()},
        {"dpg/0.txt": b"a field", "dpg/COCOval2014000000010363.txt": b"a cat"},
    ]


def read(folder: Path) -> None:
    read_statistics(next(folder.iterdir()))


def read_list(folder: Path) -> None:
    path = next(folder.iterdir())
    BENCHMARKS[path.name].rows(path)


TARGETS = (
    Target(name="statistics", seeds=statistics, read=read),
    Target(name="benchmark", seeds=lists, read=read_list),
)
