"""What training tools put around the names of tensors and around whole state dicts, and add beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

# Modules around modules, at any depth of a name: torch.compile, DataParallel and DDP, FSDP, activation checkpointing,
# Accelerate.
MODULES = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
# Last parts of keys that tools add and no network uses: the count of torch's AveragedModel, ComfyUI's addition to every
# text encoder, tables that older versions of transformers saved.
EXTRAS = frozenset({"n_averaged", "logit_scale", "inv_freq", "position_ids"})


def unwrapped_key(key: str) -> str:
    """A key without the modules that tools wrap around modules."""
    return ".".join(part for part in key.split(".") if part not in MODULES)


def unwrapped(tensors: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, str]]:
    """The entries under their unwrapped keys, and the original key of every one that was wrapped.

    A key whose unwrapped form is taken stays as it is, so that a strict load names it.
    """
    plain = {key for key in tensors if unwrapped_key(key) == key}
    found: dict[str, Value] = {}
    originals: dict[str, str] = {}
    for key, value in tensors.items():
        inner = unwrapped_key(key)
        if inner != key and (inner in plain or inner in found):
            inner = key
        found[inner] = value
        if inner != key:
            originals[inner] = key
    return found, originals


def is_extra(key: str) -> bool:
    return key.rpartition(".")[2] in EXTRAS
