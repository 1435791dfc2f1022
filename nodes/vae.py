"""Decoding in tiles."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .bridge.links import check_links
from .bridge.vae import decode_in_tiles

AUTO = "auto"


class SanaNativeDecodeTiled(io.ComfyNode):
    """Exact tiles by choice, or blended ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        overlap = io.Int.Input(
            "overlap",
            default=128,
            min=32,
            max=1024,
            step=32,
            tooltip="How far blended tiles overlap, in pixels, at most half a tile. A larger overlap hides seams "
            "better and takes longer.",
        )
        return io.Schema(
            node_id="SanaNativeDecodeTiled",
            display_name="SANA VAE Decode (Tiled)",
            category="SANA/latent",
            description="Decodes a SANA latent in tiles, to save memory. Exact tiles give the same picture as VAE "
            "Decode, without seams.",
            search_aliases=["sana tiled decode", "decode 4k", "vae decode tiled", "low vram decode", "dc-ae tiling"],
            inputs=[
                io.Latent.Input("samples", tooltip="A latent of a SANA model."),
                io.Vae.Input("vae", tooltip="SANA's DC-AE, from Load SANA or Load VAE."),
                io.Combo.Input(
                    "tile_size",
                    options=[AUTO, "256", "512", "1024", "2048"],
                    default=AUTO,
                    tooltip="Side of a tile in pixels. Smaller tiles need less memory. auto: the largest up to 1024 "
                    "that fits into the free memory.",
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=[io.DynamicCombo.Option("exact", []), io.DynamicCombo.Option("blend", [overlap])],
                    tooltip="exact: the same picture as without tiles. blend: each tile is decoded alone and faded "
                    "into the next; tones and details differ from tile to tile.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The decoded picture.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, tile_size: str, method: dict[str, Any]) -> io.NodeOutput:
        check_links(samples=samples, vae=vae)
        tile = AUTO if tile_size == AUTO else int(tile_size)
        return io.NodeOutput(decode_in_tiles(vae, samples["samples"], tile, method.get("overlap")))
