"""The parsers that are fuzzed. A new one is a row here."""

from __future__ import annotations

from ..target import Target
from . import (
    data_sets,
    folders,
    gguf_files,
    loras,
    metrics,
    networks,
    nodes,
    pickles,
    pictures,
    prompt_files,
    prompt_tables,
    settings_files,
    tokenizers,
)

FILE_TARGETS = (
    *networks.TARGETS,
    *pickles.TARGETS,
    *gguf_files.TARGETS,
    *folders.TARGETS,
    *loras.TARGETS,
    *metrics.TARGETS,
    *prompt_files.TARGETS,
    *prompt_tables.TARGETS,
    *settings_files.TARGETS,
    *tokenizers.TARGETS,
    *pictures.TARGETS,
    *data_sets.TARGETS,
)


def all_targets() -> dict[str, Target]:
    """By name; with those of the nodes where this Python can run ComfyUI."""
    return {target.name: target for target in (*FILE_TARGETS, *nodes.targets())}
