"""The pack as a ComfyUI extension: its nodes in the order of the data, and the hooks that make ComfyUI's own nodes know
SANA.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .bridge import migration, paths, registration
from .controlnet import SanaNativeLoadControlNet, SanaNativeSoftEdge
from .guidance import SanaNativeGuidanceInterval, SanaNativePerturbedAttention
from .latent import SanaNativeEmptyLatent, SanaNativeResolution
from .load import SanaNativeLoad, SanaNativeLoadModel, SanaNativeLoadTextEncoder, SanaNativeLoadVAE
from .lora import SanaNativeLoadLora
from .sample import SanaNativeGenerate, SanaNativeSampler, SanaNativeSigmas
from .text import SanaNativeTextEncode
from .vae import SanaNativeDecodeTiled

NODES: list[type[io.ComfyNode]] = [
    SanaNativeLoad,
    SanaNativeLoadModel,
    SanaNativeLoadTextEncoder,
    SanaNativeLoadVAE,
    SanaNativeLoadLora,
    SanaNativeLoadControlNet,
    SanaNativeSoftEdge,
    SanaNativeTextEncode,
    SanaNativeEmptyLatent,
    SanaNativeResolution,
    SanaNativePerturbedAttention,
    SanaNativeGuidanceInterval,
    SanaNativeSigmas,
    SanaNativeSampler,
    SanaNativeGenerate,
    SanaNativeDecodeTiled,
]


class SanaExtension(ComfyExtension):
    async def on_load(self) -> None:
        registration.install()
        paths.add_embedded_model()
        await migration.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SanaExtension:
    """Called by ComfyUI when it loads the pack."""
    return SanaExtension()
