"""LoRA."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

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
            description="Adds a LoRA to a SANA model and says what of the file was used. "
            "ComfyUI's own Load LoRA works too.",
            search_aliases=["lora", "sana lora", "lokr", "loha", "dora", "lycoris", "lora loader"],
            inputs=[
                io.Model.Input("model", tooltip="The SANA model to change."),
                io.Combo.Input(
                    "lora_name",
                    options=[NONE, *model_files("loras")],
                    tooltip="none: the model stays as it is. Or a file in models/loras, trained on the same SANA release: "
                    "by diffusers, OneTrainer, kohya or SimpleTuner.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added to the model. 0: none of it; negative: the opposite.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="The same for its part for Gemma-2, which few files have. Counts where clip is connected.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Gemma-2, for a LoRA that was trained with the text encoder."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA."),
                io.Clip.Output(tooltip="Gemma-2 with the LoRA's part for it; empty where no clip is connected."),
                io.String.Output(
                    display_name="report",
                    tooltip="Matched modules, kind, rank and alpha, and every sort of key that fits nothing; "
                    "show it with Preview as Text.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength_model: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        if lora_name == NONE:
            return io.NodeOutput(model, clip, "no LoRA is chosen")
        with chosen_file("loras", lora_name) as path:
            *patched, report = load_lora_file(model, clip, path, strength_model, strength_clip)
        show(report)
        return io.NodeOutput(*patched, report)
