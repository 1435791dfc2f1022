"""Bodies of /prompt at the pack's nodes, in a real ComfyUI in this process.

A case is refused by the host's validation, or runs in the host's executor and ends with a result or a SanaError. Cases
that would draw long are left at validation.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..target import Files, Target

FILE = "prompt.json"
ROOT = str(Path(__file__).parents[3])
LARGEST = {"seed": math.inf, "batch_size": 4}  # numbers in a case that is executed
LARGEST_OTHER = 256
LOAD = {"model": "sana.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors",
        "native_size": "auto", "weight_dtype": "default", "trained_precision": "auto", "fast": "auto"}  # fmt: skip
GENERATE = {"model": ["1", 0], "clip": ["1", 1], "prompt": "a cat", "negative_prompt": "", "width": 64, "height": 64,
            "seed": 1, "steps": 1, "cfg": 4.5, "denoise": 1.0}  # fmt: skip


class Refused(Exception):
    """By the host's validation, or by a SanaError of a node."""


class Anything(str):
    """A type that every link fits."""

    def __ne__(self, other: object) -> bool:
        return False


class Sink:
    """The end of a graph: makes the host run what is before it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (Anything("*"),)}}

    RETURN_TYPES, OUTPUT_NODE, FUNCTION, CATEGORY = (), True, "take", "test"

    def take(self, value: Any) -> dict[str, Any]:
        return {}


def targets() -> list[Target]:
    """None where this Python cannot run ComfyUI."""
    from e2e import in_process

    if not in_process.possible():
        return []
    room = 256 << 20  # networks take some
    return [Target(name="prompt", seeds=seeds, read=read, errors=(Refused,), room=room, reserves=True)]


@functools.cache
def host() -> SimpleNamespace:
    """ComfyUI with the pack's nodes and tiny models."""
    from e2e import in_process, tiny_files

    if "sana_pack" not in sys.modules:
        in_process.start()
    execution, nodes, folders = (importlib.import_module(name) for name in ("execution", "nodes", "folder_paths"))
    pack = importlib.import_module("sana_pack.nodes")
    models = tiny_files.write_all(Path(tempfile.mkdtemp(prefix="fuzz-models-")))
    atexit.register(shutil.rmtree, models, ignore_errors=True)
    for kind in ("diffusion_models", "vae", "text_encoders", "controlnet", "loras"):
        folders.add_model_folder_path(kind, str(models / kind))
    known = {node.GET_SCHEMA().node_id: node for node in pack.NODES}
    nodes.NODE_CLASS_MAPPINGS.update(known, Sink=Sink)
    server = SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id=None, send_sync=lambda *_: None)
    caches = {"lru": 0, "ram": 0, "ram_inactive": 0}
    executor = execution.PromptExecutor(server, cache_type=execution.CacheType.CLASSIC, cache_args=caches)
    return SimpleNamespace(execution=execution, executor=executor, known=known)


def graph(*nodes: tuple[str, dict[str, Any]], sinks: tuple[tuple[int, int], ...]) -> Files:
    """Nodes numbered from 1, and a sink for each (node, output)."""
    found = {str(number): {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in enumerate(nodes, 1)}
    for number, output in sinks:
        found[f"s{number}-{output}"] = {"class_type": "Sink", "inputs": {"value": [str(number), output]}}
    return {FILE: json.dumps(found).encode()}


@functools.cache
def seeds() -> list[Files]:
    host()
    load, model = ("SanaNativeLoad", LOAD), ["1", 0]
    lora = {
        "model": model,
        "lora_name": "lora.safetensors",
        "strength_model": 1.0,
        "strength_clip": 1.0,
        "clip": ["1", 1],
    }
    loader = {key: LOAD[key] for key in ("model", "native_size", "weight_dtype", "trained_precision", "fast")}
    encode = {"clip": ["1", 1], "text": "a cat", "instruction": "upstream", "lowercase": True}
    sized = {
        "size": "own",
        "size.width": 64,
        "size.height": 96,
        "sampling": "own",
        "sampling.steps": 1,
        "sampling.cfg": 2.0,
    }
    control = {"control_net": ["2", 0], "control_image": ["3", 0], "vae": ["1", 2], "control_strength": 1.0}
    image = ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 255})
    latent = (
        "SanaNativeEmptyLatent",
        {"resolution": "custom", "resolution.width": 64, "resolution.height": 64, "batch_size": 1},
    )
    tiled = {"samples": ["2", 0], "vae": ["1", 2], "tile_size": "256", "method": "blend", "method.overlap": 64}
    attention = {"model": model, "scale": 2.0, "layers": "", "adaptive_scale": 0.0}
    percents, own = (
        {"start_percent": 0.1, "end_percent": 0.9},
        {"instruction": "own text", "own_instruction": "say it", "positive": ["2", 0]},
    )
    return [
        graph(load, ("SanaNativeGenerate", GENERATE), sinks=((2, 0),)),
        graph(load, ("SanaNativeGenerate", {**GENERATE, **sized}), sinks=((2, 0),)),
        graph(load, ("SanaNativeLoadControlNet", {"control_net": "control.safetensors", "order": "upstream"}), image,
              ("SanaNativeGenerate", {**GENERATE, **control}), sinks=((4, 0),)),
        graph(load, ("SanaNativeTextEncode", encode), ("SanaNativeTextEncode", {**encode, **own}),
              sinks=((2, 1), (3, 0))),
        graph(load, ("SanaNativeLoadLora", lora), sinks=((2, 0), (2, 2))),
        graph(load, latent, ("SanaNativeDecodeTiled", tiled),
              ("SanaNativeGenerate", {**GENERATE, "latent": ["2", 0]}), sinks=((3, 0), (4, 0))),
        graph(load, ("SanaNativePerturbedAttention", {**attention, **percents}),
              ("SanaNativeGuidanceInterval", {"model": ["2", 0], **percents}),
              ("SanaNativeSigmas",
               {"model": ["3", 0], "schedule": "flow_dpm", "steps": 4, "shift": 0.0, "denoise": 1.0}),
              ("SanaNativeSampler", {"sampler": "flow_dpm"}), sinks=((3, 0), (4, 0), (5, 0))),
        graph(("SanaNativeLoadModel", loader), ("SanaNativeLoadVAE", {"vae": "dcae.safetensors"}),
              ("SanaNativeLoadTextEncoder", {"text_encoder": "gemma.safetensors"}), sinks=((1, 0), (2, 0), (3, 0))),
        graph(image, ("SanaNativeSoftEdge", {"edges": ["1", 0], "lines": "soft", "thickness": 2}),
              ("SanaNativeResolution", {"model": "1024px", "ratio": "1.00"}), sinks=((2, 0), (3, 0))),
        graph(latent, sinks=((1, 0),)),
    ]  # fmt: skip


def read(folder: Path) -> None:
    try:
        prompt = json.loads((folder / FILE).read_bytes())
    except (ValueError, RecursionError) as error:  # the host's web server says so
        raise Refused(str(error)) from error
    comfyui = host()
    valid, _, outputs, errors = _guarded(asyncio.run, comfyui.execution.validate_prompt("fuzz", prompt, None))
    _check_validation(errors)
    if not valid:
        raise Refused("validation")
    if _is_small(prompt):
        _guarded(comfyui.executor.execute, prompt, "fuzz", {}, outputs)
        if not comfyui.executor.success:
            _check_execution(comfyui.executor.status_messages)


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns. An error of the host's own code refuses the prompt, one of the pack's goes on."""
    try:
        return function(*arguments)
    except Exception as error:
        if _is_ours(error):
            raise
        raise Refused(f"the host: {error}") from error


def _is_ours(error: BaseException) -> bool:
    place, files = error.__traceback__, []
    while place is not None:
        files.append(place.tb_frame.f_code.co_filename)
        place = place.tb_next
    return any(_names_the_pack(file) for file in files)


def _names_the_pack(text: str) -> bool:
    return any(f"{ROOT}/{part}/" in text for part in ("nodes", "sana_core"))


def _check_validation(errors: dict[str, Any]) -> None:
    """Raise for an exception that the host has caught in code of the pack."""
    for node in errors.values():
        for error in node["errors"]:
            traceback = "".join(error.get("extra_info", {}).get("traceback", ()))
            if _names_the_pack(traceback):
                raise AssertionError(f"in validation: {error}")


def _is_small(prompt: dict[str, Any]) -> bool:
    """Is it drawn in a moment, and is no file written?"""
    nodes = [node for node in prompt.values() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)]
    inputs = [(name, value) for node in nodes for name, value in node["inputs"].items()]
    if len(nodes) < len(prompt) or any(node["class_type"] == "SanaNativeQuantize" for node in nodes):
        return False
    return all(_number(value) <= LARGEST.get(name, LARGEST_OTHER) for name, value in inputs)


def _number(value: Any) -> float:
    """A value as the host converts it."""
    try:
        return abs(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _check_execution(messages: list[tuple[str, dict[str, Any]]]) -> None:
    (found,) = [data for event, data in messages if event == "execution_error"] or [None]
    if found is None:
        raise Refused("interrupted")
    known = importlib.import_module("sana_pack.sana_core.errors")
    kind = str(found["exception_type"]).rpartition(".")[2]
    if isinstance(getattr(known, kind, None), type) or not _names_the_pack("".join(found["traceback"])):
        raise Refused(found["exception_message"])
    raise AssertionError(
        f"{found['node_type']}: {kind}: {found['exception_message']} {''.join(found['traceback'][-2:])}"
    )
