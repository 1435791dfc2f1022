"""Read a LoRA file: the tensors of each module by role, and their scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..checkpoint.files import read_checkpoint
from ..checkpoint.kinds import describe
from ..checkpoint.move import check_stored
from ..errors import CheckpointError
from .factors import Factors, kind_of
from .keys import Place, read_key
from .names import TEXT_ENCODER
from .peft import WEIGHT_FILES, PeftConfig, Scaling, stated_config

_MATRICES = ("down", "up", "hada_w", "lokr_w")  # how roles begin whose tensors need two dimensions


@dataclass(frozen=True)
class Lora:
    """Factors by module name, the file's keys of each module, keys of no known kind, and the file's name.

    Module names are the file's, without wrappers such as `_orig_mod`.
    """

    modules: dict[str, Factors]
    keys: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    source: str

    @property
    def has_text_encoder(self) -> bool:
        return any(name.startswith(TEXT_ENCODER) for name in self.modules)

    @property
    def has_transformer(self) -> bool:
        return not all(name.startswith(TEXT_ENCODER) for name in self.modules)


def load_lora(path: str | Path) -> Lora:
    """Read a LoRA (LoHa, LoKr, DoRA, AdaLoRA) from a file or a folder.

    Known names: diffusers / PEFT, OneTrainer, kohya, LyCORIS, ComfyUI and NVlabs' own. Alpha comes from the file's
    tensors, else from PEFT's configuration in its metadata or beside it (adapter_config.json), else the scale is 1.
    Raises CheckpointError for anything that is no LoRA.
    """
    path = Path(path)
    file = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path)
    checkpoint = read_checkpoint(file)
    lora = parse_lora(checkpoint.tensors, stated_config(file, checkpoint.metadata), checkpoint.source)
    if not lora.modules:
        parts = next((key for key in lora.unknown if _is_factor(read_key(key))), None)
        found = f"only parts of one (such as {parts})" if parts else describe(lora.unknown)
        raise CheckpointError(f"{path}: expected a LoRA, found {found}: choose a LoRA file")
    if all(factors.rank == 0 for factors in lora.modules.values()):
        raise CheckpointError(f"{path}: all {len(lora.modules)} modules of this LoRA have rank 0: it changes nothing")
    return lora


def parse_lora(tensors: Mapping[str, Tensor], stated: str | bytes | None = None, source: str = "the LoRA file") -> Lora:
    """What there is of a LoRA in a state dict. stated: PEFT's configuration as JSON.

    Raises CheckpointError for a configuration or a tensor that cannot be used.
    """
    config = PeftConfig(stated, source)
    for key, tensor in tensors.items():
        check_stored(key, tensor)
    places = {key: read_key(key) for key in tensors}
    _check_adapters(places.values(), source)
    found: dict[str, dict[str, str]] = {}  # module -> role -> key
    for key, place in places.items():
        if place is not None and (other := found.setdefault(place.module, {}).setdefault(place.role, key)) != key:
            raise CheckpointError(f"{source}: {other} and {key} are the same tensor of one module; save it again")
    kinds = {name: kind_of(keys) for name, keys in found.items()}
    if all(kind in (None, "bias") for kind, _ in kinds.values()):  # any model has biases
        found = {}
    found = {name: {role: keys[role] for role in keys if role in kinds[name][1]} for name, keys in found.items()}
    keys = {name: tuple(keys.values()) for name, keys in found.items() if keys}
    modules = {
        name: _factors(source, {role: (key, tensors[key]) for role, key in found[name].items()}, config.scaling(name))
        for name in keys
    }
    used = {key for own in keys.values() for key in own}
    return Lora(modules, keys, tuple(key for key in tensors if key not in used), source)


def _is_factor(place: Place | None) -> bool:
    """Is this a tensor that only adapters have?"""
    return place is not None and place.role not in ("alpha", "bias")


def _check_adapters(places: Iterable[Place | None], source: str) -> None:
    adapters = sorted({place.adapter for place in places if place is not None and place.adapter is not None})
    if len(adapters) > 1:
        raise CheckpointError(f"{source} holds several adapters ({', '.join(adapters)}): save one of them alone")


def _factors(source: str, roles: Mapping[str, tuple[str, Tensor]], stated: Scaling) -> Factors:
    for role, (key, tensor) in roles.items():
        needed = 2 if role.startswith(_MATRICES) and role != "up_bias" else 0 if role == "alpha" else 1
        if tensor.ndim < needed or not (tensor.is_floating_point() or role == "alpha"):
            raise CheckpointError(
                f"{source}: {key} is a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}, "
                f"expected {needed} or more dimensions of floating point numbers; the file is damaged"
            )
    tensors = {role: tensor for role, (_, tensor) in roles.items() if role not in ("alpha", "singular_values")}
    if "alpha" in roles:
        return Factors(tensors=tensors, alpha=_alpha(source, *roles["alpha"]))
    if "singular_values" in roles and "down" in roles:
        return _adalora(source, tensors, *roles["singular_values"], stated)
    return Factors(tensors=tensors, alpha=stated.alpha, divisor=stated.divisor)


def _alpha(source: str, key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or tensor.is_complex() or not tensor.float().isfinite():
        shape = tuple(tensor.shape)
        raise CheckpointError(
            f"{source}: {key} is a tensor of shape {shape} and type {tensor.dtype}, expected a number"
        )
    return float(tensor)


def _adalora(source: str, tensors: dict[str, Tensor], key: str, values: Tensor, stated: Scaling) -> Factors:
    """AdaLoRA (arXiv:2303.10512) as PEFT computes it: B (A * E) alpha / (rank + 1e-5); alpha 0 stands for the rank."""
    rank = tensors["down"].shape[0]
    if values.shape != (rank, 1) or tensors["down"].ndim != 2:
        raise CheckpointError(f"{source}: {key} has shape {tuple(values.shape)}, expected {(rank, 1)}; it is damaged")
    alpha = rank if stated.alpha is not None and stated.alpha <= 0 else stated.alpha
    down = tensors["down"].float() * values.float()
    return Factors(tensors={**tensors, "down": down}, alpha=alpha, divisor=rank + 1e-5)
