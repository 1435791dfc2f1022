"""Guidance."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .bridge.guidance import Interval, guidance_interval, perturbed_attention
from .bridge.links import check_links


def _limits() -> list[io.Float.Input]:
    start = "Where in the sampling it begins: 0 is the first step."
    end = "Where in the sampling it ends: 1 is the last step."
    return [
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip=start, advanced=True),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip=end, advanced=True),
    ]


class SanaNativePerturbedAttention(io.ComfyNode):
    """PAG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativePerturbedAttention",
            display_name="SANA Perturbed-Attention Guidance",
            category="SANA/guidance",
            description="Improves structure by steering away from a deliberately worse prediction, with "
            "self-attention off in one block. Each step takes one more run of the model.",
            search_aliases=["pag", "perturbed attention guidance", "sana pag", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip="A SANA model, with or without LoRA."),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strongly to guide, in addition to cfg. 0 is off. NVIDIA's demo takes 2, diffusers 3.",
                ),
                io.String.Input(
                    "layers",
                    default="",
                    tooltip="Numbers of the blocks whose attention is switched off, such as 8 or 8, 9. Empty: as "
                    "released, 8 for 1.6B and 4.8B models, 14 for 0.6B models.",
                    advanced=True,
                ),
                io.Float.Input(
                    "adaptive_scale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The scale falls by this much at each of the 1000 timesteps, down to 0. 0: it stays the "
                    "same.",
                    advanced=True,
                ),
                *_limits(),
            ],
            outputs=[io.Model.Output(tooltip="The model with the guidance, for any sampler.")],
        )

    @classmethod
    def execute(
        cls, model: Any, scale: float, layers: str, adaptive_scale: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        check_links(model=model)
        interval = Interval(start=start_percent, end=end_percent)
        return io.NodeOutput(perturbed_attention(model, scale, layers, adaptive_scale, interval))


class SanaNativeGuidanceInterval(io.ComfyNode):
    """CFG in a part of the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeGuidanceInterval",
            display_name="SANA CFG Interval",
            category="SANA/guidance",
            description="Uses cfg only in a part of the sampling. The other steps leave out the negative prompt, "
            "which is half of the work. Pictures get less saturated.",
            search_aliases=["cfg interval", "guidance interval", "interval guidance", "limited interval guidance"],
            inputs=[io.Model.Input("model", tooltip="The model. It can be another model than SANA."), *_limits()],
            outputs=[io.Model.Output(tooltip="The model with the interval, for any sampler.")],
        )

    @classmethod
    def execute(cls, model: Any, start_percent: float, end_percent: float) -> io.NodeOutput:
        check_links(model=model)
        return io.NodeOutput(guidance_interval(model, Interval(start=start_percent, end=end_percent)))
