"""LoRA."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .bridge.links import check_links
from .bridge.lora import load_lora_file
from .bridge.paths import chosen_file, model_files
from .bridge.progress import show

NONE = "none"


class SanaNativeLoadLora(io.ComfyNode):
    """A LoRA with a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadLora",
            display_name="Load SANA LoRA",
            category="SANA/loaders",
            description="Adds a LoRA to a SANA model and reports which parts of the file it used. ComfyUI's own Load "
            "LoRA works too.",
            search_aliases=["lora", "sana lora", "lokr", "loha", "dora", "lycoris", "lora loader"],
            inputs=[
                io.Model.Input("model", tooltip="The SANA model to change."),
                io.Combo.Input(
                    "lora_name",
                    options=[NONE, *model_files("loras")],
                    tooltip="A file in models/loras that was trained on the same SANA release, by diffusers, "
                    "OneTrainer, kohya or SimpleTuner. none: the model stays as it is.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added to the model. 0: nothing. Negative: the opposite.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added to Gemma-2. Few files have this part. It counts only if "
                    "clip is connected.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Gemma-2, for a LoRA that was trained with the text encoder."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA."),
                io.Clip.Output(tooltip="Gemma-2 with the LoRA's part for it. Empty if no clip is connected."),
                io.String.Output(
                    display_name="report",
                    tooltip="Which layers were changed, kind, rank and alpha, and keys that fit nothing. The node "
                    "shows it too; Preview as Text keeps it in view.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength_model: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        check_links(model=model, clip=clip)
        if lora_name == NONE:
            return io.NodeOutput(model, clip, "no LoRA is chosen")
        with chosen_file("loras", lora_name) as path:
            *patched, report = load_lora_file(model, clip, path, strength_model, strength_clip)
        show(report)
        return io.NodeOutput(*patched, report)
