"""PEFT's configuration of an adapter: what alpha is, and what it is divided by, for each module."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .names import TEXT_ENCODER
from .patterns import Budget, PatternError, Patterns

METADATA_KEY = "lora_adapter_metadata"  # of the safetensors metadata, where diffusers puts the configuration
CONFIG_FILE = "adapter_config.json"  # beside the weights that PEFT saves
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
KINDS = ("LORA", "ADALORA", "LOHA", "LOKR")  # adapter types that can be read
# LoRA with another formula, by the entry of the configuration that chooses it.
VARIANTS = ("use_qalora", "use_bdlora", "velora_config", "alora_invocation_tokens", "monteclora_config", "arrow_config",
            "kasa_config")  # fmt: skip
# Before the module names that PEFT sees.
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "text_encoder.", "base_model.model.")


def stated_config(path: str | Path, metadata: Mapping[str, str] | None) -> str | bytes | None:
    """The configuration of the adapter in a file, as JSON: in its metadata, or beside it where PEFT saves it."""
    stated = (metadata or {}).get(METADATA_KEY)
    path = Path(path)
    if stated is not None or path.name not in WEIGHT_FILES or not path.with_name(CONFIG_FILE).is_file():
        return stated
    try:
        return path.with_name(CONFIG_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.with_name(CONFIG_FILE)} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Scaling:
    """alpha, None if it is not stated, and what divides it, None for the rank that the tensors show."""

    alpha: float | None = None
    divisor: float | None = None


class PeftConfig:
    """The configuration of a file's adapters, which may be one for the transformer and one for the text encoder.

    Raises CheckpointError for JSON that is no such configuration, and for adapters with a formula that is not known.
    """

    def __init__(self, stated: str | bytes | None, source: str) -> None:
        self.source = source
        self.budget = Budget()
        entries = _read_object(stated, source)
        self.networks = {name: self._network(_entries_of(name, entries)) for name in ("transformer", "text_encoder")}

    def scaling(self, module: str) -> Scaling:
        """Of a module by its name in the file."""
        network = self.networks["text_encoder" if module.startswith(TEXT_ENCODER) else "transformer"]
        for prefix in _PREFIXES:
            module = module.removeprefix(prefix)
        try:
            alpha, rank = network.alphas.find(module), network.ranks.find(module)
        except PatternError as error:
            raise CheckpointError(f"{self.source}: its LoRA configuration is not usable: {error}") from error
        alpha = network.alpha if alpha is None else alpha
        rank = network.rank if rank is None else rank
        return Scaling(alpha, math.sqrt(rank) if rank is not None and network.divides_by_root else rank)

    def _network(self, entries: Mapping[str, Any]) -> _Network:
        stated = entries.get("peft_type") or "LORA"
        kind = stated.upper() if isinstance(stated, str) else type(stated).__name__
        variant = next((name for name in VARIANTS if entries.get(name)), None)
        if kind not in KINDS or variant:
            raise CheckpointError(
                f"{self.source}: a PEFT adapter of type {kind}{f' with {variant}' if variant else ''}, "
                "expected LoRA, DoRA, AdaLoRA, LoHa or LoKr"
            )
        alpha = entries.get("lora_alpha", entries.get("alpha"))  # of LoRA; of LoHa and LoKr
        ranks = {} if kind == "ADALORA" else entries.get("rank_pattern")  # AdaLoRA keeps masks there
        return _Network(
            alpha=None if alpha is None else self._number("alpha", alpha),
            rank=None if kind == "ADALORA" or entries.get("r") is None else self._rank("r", entries["r"]),
            alphas=self._patterns("alpha_pattern", entries.get("alpha_pattern")),
            ranks=self._patterns("rank_pattern", ranks),
            divides_by_root=entries.get("use_rslora") is True,
        )

    def _patterns(self, what: str, values: Any) -> Patterns:
        if not isinstance(values or {}, dict):
            raise CheckpointError(
                f"{self.source}: {what} of its LoRA configuration is a {type(values).__name__}, expected an object"
            )
        number = self._rank if what == "rank_pattern" else self._number
        numbers = {key: number(what, value) for key, value in (values or {}).items() if value is not None}
        try:
            return Patterns(numbers, self.budget)
        except PatternError as error:
            raise CheckpointError(f"{self.source}: {what} of its LoRA configuration is not usable: {error}") from error

    def _rank(self, what: str, value: Any) -> float:
        rank = self._number(what, value)
        if rank < 0:
            raise CheckpointError(f"{self.source}: {what} of its LoRA configuration is {rank:g}, expected a rank")
        return rank

    def _number(self, what: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            found = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
            raise CheckpointError(f"{self.source}: {what} of its LoRA configuration is {found}, expected a number")
        return number


@dataclass(frozen=True, kw_only=True)
class _Network:
    alpha: float | None
    rank: float | None
    alphas: Patterns
    ranks: Patterns
    divides_by_root: bool


def _read_object(stated: str | bytes | None, source: str) -> dict[str, Any]:
    try:
        entries = json.loads(stated or "{}")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(
            f"{source}: its LoRA configuration is not readable JSON ({reason}); download it again"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{source}: its LoRA configuration is a JSON {type(entries).__name__}, expected an object"
        )
    return entries


def _entries_of(network: str, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """diffusers puts the network's name before its entries ("transformer.lora_alpha"), PEFT alone does not."""
    prefix = f"{network}."
    return {key.removeprefix(prefix): entry for key, entry in entries.items() if key.startswith(prefix)} or entries
