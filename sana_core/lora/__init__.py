"""Low-rank adapters (LoRA and its relatives) of every dialect, added to the weights of a network."""

from .apply import apply_lora
from .file import Lora, load_lora
from .report import LoraReport

__all__ = ["Lora", "LoraReport", "apply_lora", "load_lora"]
