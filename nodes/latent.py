"""Empty latents of the sizes that SANA was trained on."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io

from ..sana_core.latents import RESOLUTION_BINS
from .bridge.sampling import empty_latent

FAMILIAR = ((1, 1), (5, 4), (4, 3), (3, 2), (5, 3), (16, 9), (2, 1), (21, 9), (5, 2), (3, 1), (4, 1))
TOLERANCE = 0.025  # a size within 2.5 % of a familiar ratio is called by it
CUSTOM = "custom"
CLASSES = {"512px": 512, "1024px": 1024, "2K": 2048, "4K": 4096}
SQUARE = 1.0  # key of the square bin


def size_label(width: int, height: int) -> str:
    """ "16:9 - 1344x768" for a trained size, or "1.07:1 - 1024x960" where no familiar ratio is near."""
    ratio = width / height
    ratios = [*FAMILIAR, *((low, high) for high, low in FAMILIAR)]
    wide, high = min(ratios, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)))
    near = abs(math.log(wide / high / ratio)) < TOLERANCE
    name = f"{wide}:{high}" if near else f"{ratio:.2f}:1" if ratio > 1 else f"1:{1 / ratio:.2f}"
    return f"{name} - {width}x{height}"


def _trained_sizes(native: int) -> io.DynamicCombo.Option:
    labels = {ratio: size_label(width, height) for ratio, (height, width) in RESOLUTION_BINS[native].items()}
    sizes = io.Combo.Input(
        "size",
        options=list(labels.values()),
        default=labels[SQUARE],
        tooltip="The nearest familiar aspect ratio, then width x height in pixels.",
    )
    return io.DynamicCombo.Option(f"{native} px model", [sizes])


class SanaNativeResolution(io.ComfyNode):
    """A trained size as two numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeResolution",
            display_name="SANA Resolution",
            category="SANA/latent",
            description="Width and height of a size that the model was trained on, for nodes that take them as "
            "numbers.",
            search_aliases=["sana resolution select", "aspect ratio", "sana size"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(CLASSES),
                    default="1024px",
                    tooltip="The picture size that the model was made for.",
                ),
                io.Combo.Input(
                    "ratio",
                    options=[f"{ratio:.2f}" for ratio in RESOLUTION_BINS[2048]],
                    default="1.00",
                    tooltip="Width to height: 1.00 is square, less is upright, more is wide.",
                ),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="In pixels, a multiple of 32."),
                io.Int.Output(display_name="height", tooltip="In pixels, a multiple of 32."),
            ],
        )

    @classmethod
    def execute(cls, model: str, ratio: str) -> io.NodeOutput:
        width, height = RESOLUTION_BINS[2048][float(ratio)]  # keyed by height to width: turned round
        return io.NodeOutput(width * CLASSES[model] // 2048, height * CLASSES[model] // 2048)


class SanaNativeEmptyLatent(io.ComfyNode):
    """Zeros to sample from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        custom = [
            io.Int.Input(
                side,
                default=1024,
                min=32,
                max=8192,
                step=32,
                tooltip=f"{side.capitalize()} in pixels, a multiple of 32.",
            )
            for side in ("width", "height")
        ]
        return io.Schema(
            node_id="SanaNativeEmptyLatent",
            display_name="Empty SANA Latent",
            category="SANA/latent",
            description="An empty latent of a size that the model was trained on, or of your own.",
            search_aliases=["sana resolution", "aspect ratio", "empty latent image", "dc-ae latent"],
            inputs=[
                io.DynamicCombo.Input(
                    "resolution",
                    options=[
                        *(_trained_sizes(native) for native in (1024, 512, 2048, 4096)),
                        io.DynamicCombo.Option(CUSTOM, custom),
                    ],
                    tooltip="The size that your model was made for, or custom. Away from trained sizes pictures get "
                    "worse.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of pictures."),
            ],
            outputs=[io.Latent.Output(tooltip="Zeros of 32 channels, one cell per 32 x 32 pixels.")],
        )

    @classmethod
    def execute(cls, resolution: dict[str, Any], batch_size: int) -> io.NodeOutput:
        if resolution["resolution"] == CUSTOM:
            return io.NodeOutput(empty_latent(resolution["width"], resolution["height"], batch_size))
        width, height = (int(side) for side in resolution["size"].rpartition(" ")[2].split("x"))
        return io.NodeOutput(empty_latent(width, height, batch_size))
