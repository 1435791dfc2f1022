"""ControlNet: its loader, and the edge maps it was trained on."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sana_core.pictures.soft_edge import soft_edge
from .bridge.control import load_control
from .bridge.links import check_links
from .bridge.paths import chosen_file, model_files


class SanaNativeLoadControlNet(io.ComfyNode):
    """A ControlNet file with the choice of how it is connected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadControlNet",
            display_name="Load SANA ControlNet",
            category="SANA/loaders",
            description="Loads a ControlNet for SANA from a file in any layout. Load ControlNet Model does the same, "
            "always with order upstream.",
            search_aliases=["sana controlnet", "load controlnet", "hed controlnet", "sana control net"],
            inputs=[
                io.Combo.Input(
                    "control_net",
                    options=model_files("controlnet"),
                    tooltip="ControlNet in models/controlnet: an original .pth or a diffusers file. It must fit the "
                    "model: 0.6B with 0.6B, 1.6B with 1.6B.",
                ),
                io.Combo.Input(
                    "order",
                    options=["upstream", "diffusers"],
                    default="upstream",
                    tooltip="How the ControlNet is connected to the model. upstream: as NVIDIA trained it. diffusers: "
                    "as diffusers runs it, for the same pictures as there, or for a ControlNet trained there.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.ControlNet.Output(tooltip="For SANA Generate, or for Apply ControlNet with SANA's VAE connected.")
            ],
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
            description="Turns an edge map into clean white lines on black, as used to train SANA's ControlNets.",
            search_aliases=["scribble", "hed", "soft edge", "sana hed", "controlnet preprocessor", "edge nms"],
            inputs=[
                io.Image.Input(
                    "edges", tooltip="White edges on black, from a HED preprocessor, from Canny, or drawn by you."
                ),
                io.Combo.Input(
                    "lines",
                    options=["soft", "thin"],
                    default="soft",
                    tooltip="What your edges look like. soft: several pixels wide with grey sides, as from HED; the "
                    "node thins them first. thin: one pixel wide, as from Canny; the node does not thin them.",
                ),
                io.Int.Input(
                    "thickness",
                    default=2,
                    min=0,
                    max=24,
                    tooltip="Width of the lines. 0: about 8 pixels, 1 to 3: about 11, 8: about 14, 24: about 22. The "
                    "training used all of 0 to 24.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The lines, for SANA Generate or Apply ControlNet.")],
        )

    @classmethod
    def execute(cls, edges: torch.Tensor, lines: str, thickness: int) -> io.NodeOutput:
        check_links(edges=edges)
        picture = edges[..., :3].movedim(-1, 1)
        return io.NodeOutput(soft_edge(picture, thickness=thickness, thin=lines == "thin").movedim(1, -1))
