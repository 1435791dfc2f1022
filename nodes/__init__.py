"""The pack as a ComfyUI extension: its nodes in the order of the data, and the hooks that make ComfyUI's own nodes know SANA."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .bridge import paths, registration
from .latent import SanaNativeEmptyLatent
from .load import SanaNativeLoad, SanaNativeLoadTextEncoder
from .sample import SanaNativeGenerate, SanaNativeSampler, SanaNativeSigmas
from .text import SanaNativeTextEncode

NODES: list[type[io.ComfyNode]] = [
    SanaNativeLoad,
    SanaNativeLoadTextEncoder,
    SanaNativeTextEncode,
    SanaNativeEmptyLatent,
    SanaNativeSigmas,
    SanaNativeSampler,
    SanaNativeGenerate,
]


class SanaExtension(ComfyExtension):
    async def on_load(self) -> None:
        registration.install()
        paths.add_embedded_model()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SanaExtension:
    """Called by ComfyUI when it loads the pack."""
    return SanaExtension()
