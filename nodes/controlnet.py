"""ControlNet: its loader, and the edge maps it was trained on."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sana_core.pictures.soft_edge import soft_edge
from .bridge.control import load_control
from .bridge.paths import chosen_file, model_files


class SanaNativeLoadControlNet(io.ComfyNode):
    """A ControlNet file with the choice of how it is connected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadControlNet",
            display_name="Load SANA ControlNet",
            category="SANA/loaders",
            description="Loads a ControlNet for SANA from a file of any layout. The stock Load ControlNet Model does "
            "so too, always in upstream's order.",
            search_aliases=["sana controlnet", "load controlnet", "hed controlnet", "sana control net"],
            inputs=[
                io.Combo.Input(
                    "control_net",
                    options=model_files("controlnet"),
                    tooltip="In models/controlnet: an original .pth (the model inside it is not used) or a diffusers "
                    "file. It must be as wide as the model: 0.6B with 0.6B, 1.6B with 1.6B.",
                ),
                io.Combo.Input(
                    "order",
                    options=["upstream", "diffusers"],
                    default="upstream",
                    tooltip="Where the ControlNet begins and acts. upstream: as NVIDIA trained it. diffusers: as "
                    "diffusers' pipeline runs it, for the same pictures as there, or for a ControlNet trained there.",
                    advanced=True,
                ),
            ],
            outputs=[io.ControlNet.Output(tooltip="For Apply ControlNet, with SANA's VAE connected there.")],
        )

    @classmethod
    def execute(cls, control_net: str, order: str) -> io.NodeOutput:
        with chosen_file("controlnet", control_net) as path:
            return io.NodeOutput(load_control(path, order))


class SanaNativeSoftEdge(io.ComfyNode):
    """Edge map to the lines of the training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeSoftEdge",
            display_name="SANA Soft Edge",
            category="SANA/conditioning",
            description="Makes of an edge map the even, white lines on black that SANA's ControlNets were trained on.",
            search_aliases=["scribble", "hed", "soft edge", "sana hed", "controlnet preprocessor", "edge nms"],
            inputs=[
                io.Image.Input(
                    "edges", tooltip="White edges on black: from a HED preprocessor, the stock Canny, or drawn."
                ),
                io.Combo.Input(
                    "lines",
                    options=["soft", "thin"],
                    default="soft",
                    tooltip="What the edges look like. soft: several pixels wide and grey at their sides, as from "
                    "HED; they are thinned first. thin: a pixel wide, as from Canny; thinning would delete those.",
                ),
                io.Int.Input(
                    "thickness",
                    default=2,
                    min=0,
                    max=24,
                    tooltip="Width of the lines; the training used all of 0 to 24. 1 to 3: about 11 pixels, 0: "
                    "thinner, 4 and more: thicker.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The lines, for the image input of Apply ControlNet.")],
        )

    @classmethod
    def execute(cls, edges: torch.Tensor, lines: str, thickness: int) -> io.NodeOutput:
        picture = edges[..., :3].movedim(-1, 1)
        return io.NodeOutput(soft_edge(picture, thickness=thickness, thin=lines == "thin").movedim(1, -1))
