"""Training."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..sana_core.training.lora_layers import TARGETS
from ..sana_core.training.settings import OPTIMIZERS
from .bridge.links import check_links
from .bridge.training import LoraRequest, picture_folders, train_lora
from .bridge.training_networks import HostNetworks

LORA = io.Custom("LORA_MODEL")  # the type of ComfyUI's own Train LoRA


def _advanced() -> list[io.Input]:
    return [
        io.Float.Input(
            "alpha",
            default=0.0,
            min=0.0,
            max=1024.0,
            step=0.5,
            tooltip="The LoRA counts alpha / rank. 0: as much as the rank, which is upstream's way.",
            advanced=True,
        ),
        io.Boolean.Input(
            "dora",
            default=False,
            tooltip="On: a DoRA, which also learns how long the rows of the weights are. Slower.",
            advanced=True,
        ),
        io.Float.Input(
            "caption_dropout",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of captions that are left out. Guidance needs some.",
            advanced=True,
        ),
        io.Int.Input(
            "pixels",
            default=0,
            min=0,
            max=4096,
            step=32,
            tooltip="Side of a square picture; others keep about their shape and have as many pixels. 0: the model's "
            "own size. Less needs less memory and time.",
            advanced=True,
        ),
        io.Boolean.Input(
            "checkpointing",
            default=True,
            tooltip="On: much less memory, about a third more time. The result is the same.",
            advanced=True,
        ),
        io.String.Input(
            "sample_prompt",
            default="",
            multiline=True,
            tooltip="Prompts, one per line, that the node draws from time to time. Empty: none.",
            advanced=True,
        ),
        io.Int.Input(
            "sample_every",
            default=100,
            min=1,
            max=100000,
            tooltip="Steps between two samples.",
            advanced=True,
        ),
        io.Boolean.Input(
            "continue_training",
            default=False,
            tooltip="On: goes on with the last training of this name, where it was stopped, or for more steps. All "
            "other settings have to be as before.",
        ),
    ]


class SanaNativeTrainLora(io.ComfyNode):
    """A LoRA from a folder of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeTrainLora",
            display_name="SANA Train LoRA",
            category="SANA/training",
            description="Trains a LoRA of a SANA model on a folder of pictures and writes it to models/loras. Cancel "
            "keeps what was learnt; continue_training goes on from there.",
            search_aliases=["train lora", "lora trainer", "dreambooth", "fine-tune", "finetune", "dora", "training"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The SANA model to train on, quantised or not. It is not changed."),
                io.Clip.Input("clip", tooltip="Its Gemma-2, which reads the captions once."),
                io.Vae.Input("vae", tooltip="Its DC-AE, which encodes the pictures once."),
                io.Combo.Input(
                    "folder",
                    options=picture_folders(),
                    tooltip="A folder in ComfyUI's input folder with pictures, and a caption for NAME.png in "
                    "NAME.txt. Press R after you have made one.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    tooltip="Of pictures that have none, such as: a photo of a zorble dog. Use a word that the model "
                    "does not know.",
                ),
                io.String.Input(
                    "name",
                    default="my_sana_lora",
                    tooltip="Name of the new file in models/loras. A number is added where it is taken.",
                ),
                io.Int.Input(
                    "steps",
                    default=500,
                    min=1,
                    max=1000000,
                    tooltip="Steps altogether. 300 to 1000 are usual for 5 to 20 pictures.",
                ),
                io.Int.Input("batch", default=4, min=1, max=1024, tooltip="Pictures of a step."),
                io.Int.Input(
                    "at_once",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="How many of them are computed together: more is faster and needs more memory. The result "
                    "is the same. The batch has to be a multiple.",
                ),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Size of the LoRA. More learns more detail."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="How far each step goes. Too much breaks pictures, too little learns nothing.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default="adamw",
                    tooltip="adamw: right for LoRAs. adamw8bit needs the package bitsandbytes and a GPU.",
                ),
                io.Combo.Input(
                    "targets",
                    options=list(TARGETS),
                    default="attention",
                    tooltip="Which layers get a LoRA. attention: its four projections. qkv: three of them. all: "
                    "attention and feed-forward, a larger file.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,  # a new seed would be a new training
                    tooltip="The same seed and settings give the same LoRA.",
                ),
                *_advanced(),
            ],
            outputs=[
                LORA.Output(display_name="lora", tooltip="For ComfyUI's Load LoRA Model and Save LoRA Weights."),
                io.String.Output(display_name="lora_name", tooltip="Name of the new file, as Load LoRA lists it."),
                io.Image.Output(display_name="samples", tooltip="The last samples. Nothing without a sample prompt."),
                io.Image.Output(display_name="loss", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **widgets: Any) -> io.NodeOutput:
        check_links(model=model, clip=clip, vae=vae)
        made = train_lora(HostNetworks(model, clip, vae), LoraRequest(**widgets))
        pictures = [picture for picture in (made.sheet, made.plot) if picture is not None]
        shown = [entry for picture in pictures for entry in ui.PreviewImage(picture, cls=cls).values]
        samples = ExecutionBlocker(None) if made.sheet is None else made.sheet
        return io.NodeOutput(made.lora, made.name, samples, made.plot, ui={"images": shown})
