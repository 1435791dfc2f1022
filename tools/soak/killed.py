"""The server is killed at random moments and started again: what lies on the disk afterwards?"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from random import Random

from e2e.server import ExecutionFailed, Graph, PromptRefused, Server
from PIL import Image

from sana_core.checkpoint.files import read_checkpoint

from .jobs import Job

QUANTISED = "models/diffusion_models/killed.safetensors"
SETTINGS = "user"  # of ComfyUI: learnt colours of previews are in it, too


def digests(folder: Path) -> dict[str, str]:
    """Of all files in a folder, by their names in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quantising() -> Graph:
    """A graph that writes a model file."""
    g = Graph()
    g.add(
        "SanaNativeQuantize",
        model="Sana_1600M_1024px_BF16.pth",
        text_encoder="none",
        format="int8",
        filename=Path(QUANTISED).name,
        embedding="auto",
        native_size="auto",
        trained_precision="auto",
        prompts="",
        prompts_text_encoder="none",
        overwrite=True,
    )
    return g


def broken(base: Path) -> tuple[list[str], list[str]]:
    """Files of this pack that are not whole, and pictures that are not, which ComfyUI itself writes."""
    ours, pictures = [], []
    for path in (*(base / SETTINGS).rglob("*.safetensors"), base / QUANTISED):
        if path.exists():
            try:
                read_checkpoint(path)
            except ValueError as error:
                ours.append(f"{path.name}: {error}")
    for path in (base / SETTINGS).rglob("*.json"):
        try:
            json.loads(path.read_text("utf-8"))
        except ValueError as error:
            ours.append(f"{path.name}: {error}")
    for path in (base / "output").rglob("*.png"):
        try:
            Image.open(path).load()
        except (OSError, SyntaxError) as error:
            pictures.append(f"{path.name}: {error}")
    return ours, pictures


def kill_often(server: Server, jobs: list[Job], times: int, seed: int) -> tuple[list[str], list[str]]:
    """Kill the server that many times while it works. Returns what is wrong on the disk, and pictures cut in two."""
    random, before = Random(seed), digests(server.base / "models")
    wrong, cut = [], []
    for turn in range(times):
        for index in range(4):
            graph = quantising() if index == 2 else random.choice(jobs).graph(f"kill-{turn:03}-{index}")
            server.queue(graph, "kill")
        time.sleep(random.uniform(0.2, 5.0))
        server.kill()
        ours, pictures = broken(server.base)
        wrong += ours
        cut += [name for name in pictures if name not in cut]
        server.start()
    after = digests(server.base / "models")
    wrong += [f"{name} has changed" for name, found in before.items() if after.get(name) != found]
    made = [name for name in after if name not in before and not QUANTISED.endswith(name)]
    wrong += [f"{name} was left behind" for name in made]
    try:
        server.run(random.choice([job for job in jobs if not job.is_wrong]).graph("after"))
    except (OSError, ExecutionFailed, PromptRefused) as error:
        wrong.append(f"nothing is drawn after the server was killed: {error}")
    return wrong, cut
