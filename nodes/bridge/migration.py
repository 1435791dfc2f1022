"""Nodes of other SANA packs -> what replaces them here, for the editor's "Replace All" and for prompts sent to the API.

The host acts on these only where the other pack is not installed. It matches inputs by name, cannot reach the inner
inputs of a dynamic combo, and carries values over as they are; `old_widgets` are the names of an old node's widgets in
the order in which workflows store their values. Number types and devices that were chosen there are not carried over:
here they follow from the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import ComfyAPI, io
from server import PromptServer

from .model import SPRINT_SHIFT

log = logging.getLogger("sana")
GEMMA = "gemma_2_2b_fp16.safetensors"


class SameOutputs(io.NodeReplace):
    """A replacement whose outputs keep their places.

    The editor keeps no link without a mapping of the outputs. Where prompts come over the API, the host follows such a
    mapping into nodes that it has already replaced and fails on inputs that have other names there
    (`NodeReplaceManager.apply_replacements`); it needs none.
    """

    def __init__(self, outputs: int, **fields: Any) -> None:
        super().__init__(**fields)
        self.outputs = outputs

    def as_dict(self) -> dict[str, Any]:
        """What the editor is told."""
        return {
            **super().as_dict(),
            "output_mapping": [{"old_idx": index, "new_idx": index} for index in range(self.outputs)],
        }


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """inputs: old name -> new name.  values: what is set on the new node."""

    old: str
    new: str
    old_widgets: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    outputs: int = 1

    def for_host(self) -> SameOutputs:
        carried = [{"new_id": new, "old_id": old} for old, new in self.inputs.items()]
        given = [{"new_id": name, "set_value": value} for name, value in self.values.items()]
        return SameOutputs(
            self.outputs,
            old_node_id=self.old,
            new_node_id=self.new,
            old_widget_ids=list(self.old_widgets),
            input_mapping=[*carried, *given],  # pyright: ignore[reportArgumentType]
        )


LOADER = {"native_size": "auto", "weight_dtype": "default", "trained_precision": "auto"}
SIZE = ("width", "height", "batch_size")
TEXT = {"text": "text", "GEMMA": "clip"}

REPLACEMENTS = (
    # ComfyUI_ExtraModels, city96's and NVIDIA's
    Replacement(
        old="SanaCheckpointLoader",
        new="SanaNativeLoadModel",
        old_widgets=("ckpt_name", "model", "dtype", "enable_cfg_passthrough"),
        inputs={"ckpt_name": "model"},
        values=LOADER,
    ),
    Replacement(
        old="GemmaLoader",
        new="SanaNativeLoadTextEncoder",
        old_widgets=("model_name", "device", "dtype"),
        values={"text_encoder": GEMMA},
    ),
    Replacement(
        old="SanaTextEncode",  # Lightning's, of the same name, has no instruction
        new="SanaNativeTextEncode",
        old_widgets=("text",),
        inputs=TEXT,
        values={"instruction": "upstream"},
    ),
    Replacement(
        old="GemmaTextEncode",
        new="SanaNativeTextEncode",
        old_widgets=("text",),
        inputs=TEXT,
        values={"instruction": "none"},
    ),
    Replacement(
        old="ExtraVAELoader",
        new="SanaNativeLoadVAE",
        old_widgets=("vae_name", "vae_type", "dtype"),
        inputs={"vae_name": "vae"},
    ),
    Replacement(
        old="SanaResolutionSelect",
        new="SanaNativeResolution",
        old_widgets=("model", "ratio"),
        inputs={"model": "model", "ratio": "ratio"},
        outputs=2,
    ),
    Replacement(
        old="EmptySanaLatentImage", new="EmptyLatentImage", old_widgets=SIZE, inputs={name: name for name in SIZE}
    ),
    Replacement(
        old="EmptyDCAELatentImage", new="EmptyLatentImage", old_widgets=SIZE, inputs={name: name for name in SIZE}
    ),
    Replacement(  # no released model reads a size from its conditioning: a node that changes nothing
        old="SanaResolutionCond",
        new="ConditioningSetTimestepRange",
        old_widgets=("width", "height"),
        inputs={"cond": "conditioning"},
        values={"start": 0.0, "end": 1.0},
    ),
    Replacement(  # the model brings Sprint's sampling along: its own shift again
        old="ScmModelSampling",
        new="ModelSamplingSD3",
        old_widgets=("cfg_scale", "zsnr"),
        inputs={"model": "model"},
        values={"shift": SPRINT_SHIFT},
    ),
    # ComfyUI-Lightning
    Replacement(
        old="SanaDiffusionLoader",
        new="SanaNativeLoadModel",
        old_widgets=("model_name", "model_type", "weight_dtype", "convert_model_dtype"),
        inputs={"model_name": "model"},
        values=LOADER,
    ),
    Replacement(
        old="SanaCLIPLoader",
        new="SanaNativeLoadTextEncoder",
        old_widgets=("model_name", "max_length", "device", "dtype"),
        values={"text_encoder": GEMMA},
    ),
    Replacement(
        old="SanaVAELoader", new="SanaNativeLoadVAE", old_widgets=("model_name", "dtype"), inputs={"model_name": "vae"}
    ),
    Replacement(
        old="SanaEmptyLatentImage", new="EmptyLatentImage", old_widgets=SIZE, inputs={name: name for name in SIZE}
    ),
)


OLD_NODES = frozenset(replacement.old for replacement in REPLACEMENTS)


def with_meta(sent: dict[str, Any]) -> dict[str, Any]:
    """What a client sends to /prompt, with `_meta` in each node: the host reads it from those it replaces, and scripts
    leave it out.
    """
    prompt = sent.get("prompt")
    for node in prompt.values() if isinstance(prompt, dict) else ():
        if isinstance(node, dict) and node.get("class_type") in OLD_NODES:
            node.setdefault("_meta", {"title": node["class_type"]})
    return sent


async def register() -> None:
    """Tell the host of all replacements. One without a server, or too old for it, is left alone."""
    try:
        api = ComfyAPI().node_replacement
        for replacement in REPLACEMENTS:
            await api.register(replacement.for_host())
        PromptServer.instance.add_on_prompt_handler(with_meta)
    except AttributeError as error:
        log.info("workflows of other SANA packs will not be offered for replacement (%s)", error)
