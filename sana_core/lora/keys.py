"""What a key of a LoRA file means: which module its tensor belongs to, and in what role."""

from __future__ import annotations

import re
from typing import NamedTuple

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""Modules around modules, at any depth: of torch.compile, data parallelism, FSDP, checkpointing and PEFT."""
_FLAT_WRAPPERS = ("_orig_mod_", "_fsdp_wrapped_module_", "_checkpoint_wrapped_module_")  # in names without dots

# What files call the tensors of an adapter -> the tensor's role.
_ROLES = {
    **dict.fromkeys(("lora_A", "lora_down", "lora.down", "lora_linear_layer.down"), "down"),
    **dict.fromkeys(("lora_B", "lora_up", "lora.up", "lora_linear_layer.up"), "up"),
    "lora_mid": "mid",
    "lora_E": "singular_values",  # AdaLoRA
    "lora_magnitude_vector": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
    **{name: name for name in ("alpha", "dora_scale", "diff", "diff_b")},
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}
# PEFT can put the adapter's name after the tensor's: lora_A.default.weight.
_KEY = re.compile(
    rf"(?P<module>.+?)\.(?P<name>{'|'.join(map(re.escape, sorted(_ROLES, key=len, reverse=True)))})"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?P<end>\.weight|\.bias)?",
    re.DOTALL,
)


class Place(NamedTuple):
    """Where a tensor belongs: the module's name, the tensor's role, and the name of the adapter if the key has one."""

    module: str
    role: str
    adapter: str | None = None


def read_key(key: str) -> Place | None:
    """The meaning of a key, None if it is of no known kind. A module's own bias has the role "bias"."""
    key = without_wrappers(key)
    found = _KEY.fullmatch(key)
    if found is None:
        module, _, end = key.rpartition(".")
        return Place(module, "bias") if module and end == "bias" else None
    role = _ROLES[found["name"]]
    if found["end"] == ".bias":
        return Place(found["module"], "up_bias", found["adapter"]) if role == "up" else None
    return Place(found["module"], role, found["adapter"])


def without_wrappers(name: str) -> str:
    """A key or a module's name without the wrappers that it goes through."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    for wrapper in _FLAT_WRAPPERS:
        name = name.replace(wrapper, "")
    return name
