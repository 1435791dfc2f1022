"""The pack as a ComfyUI extension: its nodes in the order of the data, and the hooks that make ComfyUI's own nodes know
SANA.
"""

from __future__ import annotations

import logging
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .best_of import SanaNativeBestOf, SanaNativeLoadScorer
from .bridge import migration, paths, registration
from .controlnet import SanaNativeLoadControlNet, SanaNativeSoftEdge
from .guidance import SanaNativeGuidanceInterval, SanaNativePerturbedAttention
from .latent import SanaNativeEmptyLatent, SanaNativeResolution
from .load import SanaNativeLoad, SanaNativeLoadModel, SanaNativeLoadTextEncoder, SanaNativeLoadVAE
from .lora import SanaNativeLoadLora
from .quantize import SanaNativeQuantize
from .safety import SanaNativeCheckPrompt, SanaNativeStyle
from .sample import SanaNativeGenerate, SanaNativeSampler, SanaNativeSigmas
from .text import SanaNativeTextEncode
from .train import SanaNativeTrainLora
from .vae import SanaNativeDecodeTiled

log = logging.getLogger("sana")
NODES: list[type[io.ComfyNode]] = [
    SanaNativeLoad,
    SanaNativeLoadModel,
    SanaNativeLoadTextEncoder,
    SanaNativeLoadVAE,
    SanaNativeLoadLora,
    SanaNativeLoadControlNet,
    SanaNativeSoftEdge,
    SanaNativeCheckPrompt,
    SanaNativeStyle,
    SanaNativeTextEncode,
    SanaNativeEmptyLatent,
    SanaNativeResolution,
    SanaNativePerturbedAttention,
    SanaNativeGuidanceInterval,
    SanaNativeSigmas,
    SanaNativeSampler,
    SanaNativeGenerate,
    SanaNativeDecodeTiled,
    SanaNativeQuantize,
    SanaNativeTrainLora,
    SanaNativeLoadScorer,
    SanaNativeBestOf,
]


class SanaExtension(ComfyExtension):
    """Where the pack is installed twice, the second copy registers nothing."""

    async def on_load(self) -> None:
        if other := registration.other_copy():
            log.warning(
                "SANA is installed twice: %s is used, %s is not; delete one of the two folders",
                other,
                Path(__file__).parents[1],
            )
            return
        registration.install()
        paths.add_folders()
        await migration.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [] if registration.other_copy() else NODES


async def comfy_entrypoint() -> SanaExtension:
    """Called by ComfyUI when it loads the pack."""
    return SanaExtension()
