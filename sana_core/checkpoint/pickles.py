"""Read the tensors of a .pth, .pt, .ckpt or .bin file, which is a pickle, and run nothing that it asks for.

PyTorch's weights-only mode builds tensors, numbers, texts and containers, and refuses everything else. Trainers save
more beside the weights: random states of NumPy, settings, optimizers. For these an inert object is put in: their class
is never imported, and what the file says of them is dropped. So it does not matter for safety which names a file may
mention. A file that asks for functions of Python's own library, such as os.system, is refused all the same, because no
trainer writes that.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import sys
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, listed
from ..shortage import out_of_memory
from .safetensors_file import TEXTS
from .statements import CONFIG_KEY, saved_statement

# Where training scripts put the weights inside a pickle, in the order in which they are looked for. params_ema stands
# before params because BasicSR's own scripts take it; elsewhere the plain weights come first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "params_ema",
    "params",
    "model",
    "module",
    "net",
    "network",
    "generator",
    "generator_ema",
    "state_dict_ema",
    "ema",
    "model_ema",
)
DEEPEST = 5  # levels of dicts in dicts
PLAIN_TYPES = frozenset({"bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "set", "slice", "str",
                         "tuple"})  # fmt: skip
PYTHON_2 = frozenset({"__builtin__", "commands", "popen2"})  # modules by their names in old pickles
# Modules of Python's library with classes of plain data, which settings and states of trainers are made of.
DATA = frozenset({"argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "pathlib", "random",
                  "types", "typing", "uuid"})  # fmt: skip
_LOCK = threading.Lock()  # PyTorch's table of allowed names is of the whole process

LARGEST_PICKLE = 2**24  # bytes of the pickle beside the tensors; those of the released models take 100 kB
LARGEST_READ = 2**16  # bytes that are read without asking how many there are
ASKED = re.compile(r"tried to allocate ([0-9]+) bytes")  # what PyTorch says where memory runs out
LARGEST_GROWTH = 4  # times the file, for all that it unpacks to; weights hardly compress


class Inert:
    """Stands for an object of any class. It has no behaviour and forgets what it is given."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        """Older versions of PyTorch write entries of a pickle into any object."""


class InertDict:
    """The same for classes that are dicts, into which a pickle writes entries."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class BoundedFile(io.BufferedReader):
    """A file that is never asked for more than it holds: Python makes room for all that is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_READ:
            size = min(size, Path(self.name).stat().st_size)
        return super().read(size)


def read_pickle(path: Path, meta: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and its statement in the form of safetensors metadata. meta: tensors on the meta device,
    except those that hold JSON.

    Raises CheckpointError for a damaged file, one that asks for code, and one without a state dict.
    """
    tensors = state_dict(_load(path))
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict of tensors: it is not a model file")
    statement = {}
    for key in [key for key in tensors if key.rpartition(".")[2] == CONFIG_KEY]:
        statement.update(saved_statement(tensors.pop(key), f"{path}: the tensor {key}"))
    if meta:
        tensors = {key: t if key.rpartition(".")[2] in TEXTS else t.to("meta") for key, t in tensors.items()}
    return tensors, statement


def state_dict(content: object, depth: int = DEEPEST) -> dict[str, Tensor]:
    """The state dict of the network in what a trainer saved: under a known name, else the largest dict of tensors."""
    if not isinstance(content, dict) or depth == 0:
        return {}
    for name in WRAPPERS:
        if found := state_dict(content.get(name), depth - 1):
            return found
    own = {key: value for key, value in content.items() if isinstance(key, str) and _is_dense(value)}
    inner = [state_dict(value, depth - 1) for key, value in content.items() if "optim" not in str(key)]
    return max([own, *inner], key=len)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested and not value.is_meta


def _load(path: Path) -> Any:
    try:
        is_zip = zipfile.is_zipfile(path)
        mapped = is_zip and _is_stored(path)
        return _load_inert(path, mapped, _foreign_names(path) if is_zip else [])
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code when opened ({_named(error)}); it was "
            "not loaded. Use a .safetensors version of this model"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError,
            AssertionError, RecursionError, ArithmeticError, struct.error, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        if isinstance(error, CheckpointError) or _is_short_of_memory(error, path):
            raise
        raise CheckpointError(
            f"{path} is not a whole PyTorch file ({error}): it is truncated or damaged, download it again"
        ) from error


def _named(error: pickle.UnpicklingError) -> str:
    """The objects in question. PyTorch's whole message tells how to load them all the same."""
    names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    return listed(names) if names else str(error).partition(". ")[0]


def _is_short_of_memory(error: Exception, path: Path) -> bool:
    """Did memory run out? A damaged file may ask for far more than it holds: that is no shortage."""
    asked = ASKED.search(str(error))
    return out_of_memory(error) and (asked is None or int(asked[1]) <= LARGEST_GROWTH * path.stat().st_size)


def _is_stored(path: Path) -> bool:
    """Do the members of a zip archive lie in it as they are? Compressed ones cannot be mapped into memory.

    Raises CheckpointError for members that take far more room than the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    sizes = {member.filename.rpartition("/")[2]: member.file_size for member in members}
    if sizes.get("data.pkl", 0) > LARGEST_PICKLE or sum(sizes.values()) > LARGEST_GROWTH * path.stat().st_size:
        raise CheckpointError(f"{path} unpacks to far more than a model holds: it was not opened")
    return all(member.compress_type == zipfile.ZIP_STORED for member in members)


def _foreign_names(path: Path) -> list[str]:
    """Full names of the classes and functions in a pickle that the weights-only mode does not know."""
    with zipfile.ZipFile(path) as archive:
        members = [name.rpartition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in members:
        raise CheckpointError(f"{path} is a TorchScript program, expected weights: use a .safetensors version")
    if "data.pkl" not in members:
        raise CheckpointError(
            f"{path} is a zip archive without a PyTorch model in it: unpack it, or choose another file"
        )
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    if hostile := sorted(filter(_is_hostile, names)):
        raise pickle.UnpicklingError(listed(hostile))
    return names


def _is_hostile(name: str) -> bool:
    """Is it a function or class of Python's library that is not plain data?"""
    module, _, rest = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return rest not in PLAIN_TYPES
    return module in (sys.stdlib_module_names | PYTHON_2) - DATA


def _load_inert(path: Path, mapped: bool, names: list[str]) -> Any:
    """Load with an inert object in place of every named class; of the kind that takes entries if the first does not."""
    try:
        return _load_with(path, mapped, [(Inert, name) for name in names])
    except pickle.UnpicklingError:
        if not names:
            raise
        kinds = [(Inert if name.startswith("numpy.") else InertDict, name) for name in names]
        return _load_with(path, mapped, kinds)


def _load_with(path: Path, mapped: bool, allowed: list[Any]) -> Any:
    # torch.load takes a path that ends in .safetensors at its word, and maps into memory from a path alone
    with _LOCK, torch.serialization.safe_globals(allowed):
        if mapped and path.suffix != ".safetensors":
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        with BoundedFile(io.FileIO(path)) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
