"""PyTorch files. Some ask for code; they are refused, and nothing of it may run."""

from __future__ import annotations

import functools
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from e2e.tiny_files import nvlabs, original

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_transformer
from sana_core.checkpoint.read_json import json_tensor

from ..target import Files, Target
from . import networks

FILE = "model.pth"
CALLS = (("os", "system", "true"), ("builtins", "eval", "1"), ("subprocess", "getoutput", "true"),
         ("fuzz_canary", "touch", "x"), ("webbrowser", "open", "x"), ("pathlib", "Path.touch", "x"),
         ("builtins", "exec", "1"), ("torch", "load", "x"), ("numpy", "load", "x"), ("shutil", "rmtree", "x"),
         ("torch.utils.cpp_extension", "load_inline", "x"), ("importlib", "import_module", "fuzz_canary"),
         ("__builtin__", "eval", "1"), ("posix", "system", "true"), ("functools", "partial", "x"))  # fmt: skip


class Call:
    """Asks for a call when it is unpickled. The name is put in afterwards, so that nothing is imported to write it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return json.loads, ("ARGUMENT",)


def calling(module: str, name: str, argument: str, old: bool) -> bytes:
    """A file with a call in it, in the zip format or the older one."""
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "call": Call()}, out, _use_new_zipfile_serialization=not old)
    call = b"cjson\nloads\n"
    content = out.getvalue()
    if old:
        return content.replace(call, f"c{module}\n{name}\n".encode())
    import zipfile

    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(found, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            target.writestr(
                member,
                data.replace(call, f"c{module}\n{name}\n".encode()).replace(b"ARGUMENT", argument.encode().ljust(8)),
            )
    return found.getvalue()


def saved(content: Any, old: bool = False) -> Files:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not old)
    return {FILE: out.getvalue()}


@functools.cache
def seeds() -> list[Files]:
    tensors = {**original(networks.weights(), nvlabs(), grid=4)}
    inside = json_tensor({name: json.loads(text) for name, text in networks.stated().items()})
    whole = {**tensors, "sana_config": inside}
    calls = [{FILE: calling(*call, old=old)} for call in CALLS for old in (False, True)]
    return [
        saved({"state_dict": whole, "epoch": 3, "settings": {"lr": 1e-4, "names": ["a", ("b", None)]}}),
        saved({"module": {"ema": whole}}, old=True),
        saved({**whole, "strided": torch.zeros(4, 4).t()[1:]}),
        *calls,
        {FILE: pickle.dumps({"weight": [1.0]}, 2)},
    ]


def read(folder: Path) -> None:
    read_checkpoint(folder / FILE, "meta")
    load_transformer(folder / FILE)


TARGETS = (Target(name="pickle", seeds=seeds, read=read, reserves=True),)
