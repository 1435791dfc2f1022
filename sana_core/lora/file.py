"""Read a LoRA file: which module each tensor belongs to, in what role, and at which scale."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..checkpoint.files import read_checkpoint
from ..checkpoint.kinds import describe
from ..errors import CheckpointError
from .factors import Factors
from .names import TEXT_ENCODER

METADATA_KEY = "lora_adapter_metadata"  # where diffusers puts PEFT's configuration
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's own folder
_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<down>(?:lora_A(?:\.default)?|lora_down|lora\.down|lora_linear_layer\.down)(?:\.weight)?)"
    r"|(?P<up>(?:lora_B(?:\.default)?|lora_up|lora\.up|lora_linear_layer\.up)(?:\.weight)?)"
    r"|(?P<mid>lora_mid\.weight)"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.default)?(?:\.weight)?)"
    r"|(?P<other>alpha|dora_scale|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|diff|diff_b)"
    r")"
)


@dataclass(frozen=True)
class Lora:
    """Factors by the names that the file has for the modules, the file's keys of each, keys of no known kind, and the
    file's name.
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
    """Read a LoRA (LoHa, LoKr, DoRA) from a file, or from a PEFT folder with its adapter_config.json.

    Known names: diffusers / PEFT, OneTrainer, kohya, LyCORIS, ComfyUI and NVlabs' own. Alpha comes from the file's
    tensors, else from the configuration in its metadata or folder, else the scale is 1. Raises CheckpointError for
    anything that is no LoRA.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    beside = path if path.is_dir() else path.parent
    stated = checkpoint.metadata.get(METADATA_KEY)
    if stated is None and (path.is_dir() or path.name == ADAPTER_WEIGHTS) and (beside / ADAPTER_CONFIG).is_file():
        stated = (beside / ADAPTER_CONFIG).read_text(encoding="utf-8")
    lora = parse_lora(checkpoint.tensors, stated, checkpoint.source)
    if not lora.modules:
        parts = any(_KEY.fullmatch(key) for key in lora.unknown)
        found = f"only parts of one (such as {lora.unknown[0]})" if parts else describe(lora.unknown)
        raise CheckpointError(f"{path}: expected a LoRA, found {found}: choose a LoRA file")
    return lora


def parse_lora(tensors: Mapping[str, Tensor], stated: str | None = None, source: str = "the LoRA file") -> Lora:
    """What there is of a LoRA in a state dict. stated: PEFT's configuration as JSON. Raises CheckpointError if that
    cannot be read.
    """
    roles: dict[str, dict[str, Tensor]] = defaultdict(dict)
    keys: dict[str, list[str]] = defaultdict(list)
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            unknown.append(key)
            continue
        role = match.lastgroup if match.lastgroup != "other" else match["other"]
        roles[match["module"]][str(role)] = tensor
        keys[match["module"]].append(key)
    config = _stated_config(stated, source)
    modules = {name: _factors(name, found, config) for name, found in roles.items()}
    unknown += [key for name, factors in modules.items() if factors.kind is None for key in keys[name]]
    modules = {name: factors for name, factors in modules.items() if factors.kind is not None}
    return Lora(modules, {name: tuple(keys[name]) for name in modules}, tuple(unknown), source)


def _factors(name: str, roles: dict[str, Tensor], config: Mapping) -> Factors:
    tensors = {role: tensor for role, tensor in roles.items() if role != "alpha"}
    if "alpha" in roles:
        return Factors(tensors=tensors, alpha=float(roles["alpha"]))
    factors = Factors(tensors=tensors)
    return Factors(tensors=tensors, alpha=_stated_alpha(name, factors.rank, config))


def _stated_config(stated: str | None, source: str) -> Mapping:
    try:
        config = json.loads(stated or "{}")
    except ValueError as error:
        raise CheckpointError(
            f"{source}: its LoRA configuration is not readable JSON ({error}); download it again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{source}: its LoRA configuration is a JSON {type(config).__name__}, expected an object")
    return config


def _stated_alpha(name: str, rank: int | None, config: Mapping) -> float | None:
    """Alpha of a module from PEFT's configuration, whose entries diffusers prefixes with the network's name
    ("transformer.lora_alpha").
    """
    component = name.split(".")[0] + "."
    own = {key.removeprefix(component): value for key, value in config.items() if key.startswith(component)} or config
    patterns = own.get("alpha_pattern") or {}
    common = own.get("lora_alpha", own.get("alpha"))  # of LoRA; of LoHa and LoKr
    alpha = next((value for key, value in patterns.items() if re.search(rf"(?:^|\.)(?:{key})$", name)), common)
    if alpha is None or rank is None:
        return None
    return float(alpha) * (rank**0.5 if own.get("use_rslora") else 1.0)  # rsLoRA divides by sqrt(rank)
