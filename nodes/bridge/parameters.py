"""How a picture was drawn, in the words of A1111's web UI: Save Image writes them into PNGs beside the workflow, and
Civitai and other readers know them.

SANA Generate tells what it draws with; Save Image is another node and may come later, so it is kept until then.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context
from PIL.PngImagePlugin import PngInfo

from ...sana_core.pictures.files import parameters_text
from ...sana_core.pipeline.request import Resolved
from ...sana_core.whole_files import whole_file

log = logging.getLogger("sana")
AFTER_HEADER = 33  # bytes of a PNG: signature and IHDR
KEPT = 256  # runs
_drawn: OrderedDict[str, str] = OrderedDict()


def remember(prompt: Mapping[str, Any] | None, run: Resolved) -> None:
    """What the node that runs draws with.  prompt: all nodes of the run."""
    context = get_executing_context()
    if prompt is None or context is None or context.node_id not in prompt:
        return
    fields = ("seed", "steps", "guidance_scale", "shift", "sampler", "width", "height", "batch_size")
    record = {name: getattr(run, name) for name in fields}
    record |= {"prompt": run.prompt[0], "negative_prompt": run.negative_prompt[0], "batch_index": 0}
    record["model"] = next(filter(None, map(_model_file, _upstream(prompt, context.node_id))), "SANA")
    _drawn[_key(prompt[context.node_id])] = parameters_text(record)
    while len(_drawn) > KEPT:
        _drawn.popitem(last=False)


def write_parameters(prompt: Mapping[str, Any] | None, saved: Mapping[str, Any]) -> None:
    """Into the PNGs that Save Image has written.  saved: what it returns."""
    context = get_executing_context()
    if args.disable_metadata or prompt is None or context is None:
        return
    text = next((_drawn[key] for key in map(_key, _upstream(prompt, context.node_id)) if key in _drawn), None)
    if text is None:
        return
    for image in saved["ui"]["images"]:
        folder = Path(folder_paths.get_directory_by_type(image["type"]) or "", image["subfolder"])
        try:
            _add_text(folder / image["filename"], "parameters", text)
        except OSError as error:  # the picture is saved, and stays as it is
            log.warning("%s: how it was drawn is not written into it (%s)", image["filename"], error)


def _key(node: Mapping[str, Any]) -> str:
    return json.dumps([node["class_type"], node["inputs"]], sort_keys=True)


def _model_file(node: Mapping[str, Any]) -> str | None:
    """Name of the file that a loader has, without folder and ending."""
    names = (node["inputs"].get(name) for name in ("model", "unet_name", "ckpt_name"))
    return next((PurePosixPath(name.replace("\\", "/")).stem for name in names if isinstance(name, str)), None)


def _upstream(prompt: Mapping[str, Any], node_id: str) -> Iterator[Mapping[str, Any]]:
    """The nodes that a node depends on, the nearest first."""
    waiting, seen = [node_id], {node_id}
    for found in waiting:
        node = prompt.get(found, {"class_type": "", "inputs": {}})
        yield node
        links = [value[0] for value in node["inputs"].values() if is_link(value) and value[0] not in seen]
        waiting += dict.fromkeys(links)
        seen.update(links)


def _add_text(path: Path, name: str, text: str) -> None:
    """Put a text chunk behind the header of a PNG. Another kind of file stays as it is."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        return
    info = PngInfo()
    info.add_text(name, text)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data, *_ in info.chunks
    )
    with whole_file(path) as partial:
        partial.write_bytes(content[:AFTER_HEADER] + chunks + content[AFTER_HEADER:])
