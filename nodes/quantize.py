"""Quantised files."""

from __future__ import annotations

from comfy_api.latest import io

from ..sana_core.config import POSITIONS
from ..sana_core.errors import InputError
from ..sana_core.precision import TRAINED_PRECISIONS
from ..sana_core.quantiser.policy import EMBEDDINGS, FORMATS
from .bridge.paths import model_files
from .bridge.quantising import quantise_model

NONE = "none"


def chosen(value: str) -> str | None:
    """The value of a widget; None for "auto" and "none"."""
    return None if value in ("auto", NONE) else value


def one_of(model: str, text_encoder: str) -> tuple[str, str]:
    """Folder kind and name of the file that is chosen. Raises InputError unless it is one."""
    files = {"diffusion_models": chosen(model), "text_encoders": chosen(text_encoder)}
    found = [(kind, name) for kind, name in files.items() if name is not None]
    if len(found) != 1:
        raise InputError("choose either a model or a text encoder: a node makes one file")
    return found[0]


class SanaNativeQuantize(io.ComfyNode):
    """A quantised file of a transformer or of Gemma-2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeQuantize",
            display_name="Quantize SANA Model",
            category="SANA/tools",
            description="Writes a smaller file of a SANA transformer or of Gemma-2: 8 or 4 bits per weight instead of "
            "16. Run it once, press R, and choose the new file in the loaders.",
            search_aliases=["quantize", "int8", "fp8", "nvfp4", "gguf", "4-bit", "low vram", "sana small"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[NONE, *model_files("diffusion_models")],
                    tooltip="SANA transformer in models/diffusion_models, in any layout, not quantised yet.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=[NONE, *model_files("text_encoders")],
                    default=NONE,
                    tooltip="Gemma-2 in models/text_encoders. Choose either this or a model.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="int8",
                    tooltip="int8: smallest error; RTX 20 and newer compute with it. fp8: RTX 40 and newer. mxfp8, "
                    "nvfp4: RTX 50; nvfp4 has 4 bits. w4a8, w4a4: 4 bits on older cards. gguf: saves memory, not "
                    "time. Every format runs on every card. No speed was measured yet.",
                ),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip="Name of the new file, in the same folder. Empty: the model's name and the format.",
                ),
                io.Combo.Input(
                    "embedding",
                    options=["auto", *EMBEDDINGS],
                    default="auto",
                    tooltip="How the token table of Gemma-2 is stored. auto: int8 beside int8, else fp8.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "native_size",
                    options=["auto", *POSITIONS],
                    default="auto",
                    tooltip="Picture size that the transformer was made for. Choose 2k or 4k for a 2K or 4K model "
                    "whose file does not state it.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "trained_precision",
                    options=["auto", *TRAINED_PRECISIONS],
                    default="auto",
                    tooltip="Number type that the transformer was trained in, for a file that does not state it.",
                    advanced=True,
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="For fp8 and nvfp4: one prompt per line. The node draws them to measure the inputs of the "
                    "layers; 8 to 16 are enough. Empty: fp8 multiplies in 16 bits.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "prompts_text_encoder",
                    options=[NONE, *model_files("text_encoders")],
                    default=NONE,
                    tooltip="Gemma-2 that encodes these prompts for a transformer.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: makes the file again if it exists. Off: keeps it and makes nothing.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Size before and after, and the error of each kind of layer. Connect Preview as Text to "
                    "see it.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: str,
        text_encoder: str,
        format: str,
        filename: str,
        embedding: str,
        native_size: str,
        trained_precision: str,
        prompts: str,
        prompts_text_encoder: str,
        overwrite: bool,
    ) -> io.NodeOutput:
        kind, name = one_of(model, text_encoder)
        report = quantise_model(
            kind,
            name,
            format,
            filename.strip(),
            embedding=chosen(embedding),
            variant=chosen(native_size),
            trained_precision=chosen(trained_precision),
            prompts=[line.strip() for line in prompts.splitlines() if line.strip()],
            text_encoder=chosen(prompts_text_encoder),
            overwrite=overwrite,
        )
        return io.NodeOutput(report)
