"""Is the picture the one that was asked for? The nearest of all things' drawings, in the same style and place on the
same background.

Two descriptions are compared by distance: 16 x 16 pixels, and the latent of the model's own encoder. A thing may be
mirrored.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_core.dcae.autoencoder import DCAE

from .concepts import palette
from .pictures import render
from .scenes import Scene
from .stages import Pictured

BATCH = 64
PIXELS = 16
HALF_OF = {"left": slice(0, 1), "right": slice(1, 2)}  # of the columns, in halves
Maps = dict[str, Tensor]  # "pixel" (N, 3, 16, 16), "latent" (N, 32, h, w)


@torch.no_grad()
def describe(autoencoder: DCAE, images: Tensor) -> Maps:
    latents = torch.cat([autoencoder.encode(part) for part in images.split(BATCH)])
    return {"latent": latents.float(), "pixel": F.adaptive_avg_pool2d(images, PIXELS)}


class Gallery:
    """The drawings of all things as a scene shows them, described; each kind of scene is drawn and encoded once."""

    def __init__(self, autoencoder: DCAE, scenes: Pictured, pixels: int) -> None:
        self.autoencoder, self.scenes, self.pixels = autoencoder, scenes, pixels
        self.described: dict[Scene, Maps] = {}

    def picture(self, scenes: list[Scene]) -> Tensor:
        """(B, 3, P, P) in -1..1."""
        parts = [scenes[start : start + BATCH] for start in range(0, len(scenes), BATCH)]
        return torch.cat([render(self.scenes.drawings, self.scenes.placed(part), self.pixels) for part in parts])

    def candidates(self, kind: Scene) -> Maps:
        """Every thing in the place of the scene's first one; a thing without a drawing in that style is shown in the
        first style.
        """
        kind = replace(kind, concept=0, second=None)
        if kind not in self.described:
            style = self.scenes.styles[kind.style]
            shown = [
                replace(kind, concept=c.index, style=kind.style if style in c.styles else 0)
                for c in self.scenes.concepts
            ]
            self.described[kind] = describe(self.autoencoder, self.picture(shown))
        return self.described[kind]

    def ranks(self, images: Tensor, wanted: list[Scene]) -> dict[str, Tensor]:
        """Of each picture, by description: how many things are nearer than the right one (0: it is found). Of a couple,
        the worse rank.

        images: (B, 3, P, P) in -1..1, of scenes of one style, background and layout.
        """
        kind, maps = wanted[0], describe(self.autoencoder, images)
        if kind.second is None:
            return {name: self._ranks(found, kind, name, [s.concept for s in wanted]) for name, found in maps.items()}
        left, right = replace(kind, layout="left"), replace(kind, layout="right")
        firsts, seconds = [scene.concept for scene in wanted], [scene.second or 0 for scene in wanted]
        return {
            name: torch.maximum(self._ranks(found, left, name, firsts), self._ranks(found, right, name, seconds))
            for name, found in maps.items()
        }

    def _ranks(self, found: Tensor, kind: Scene, name: str, targets: list[int]) -> Tensor:
        distances = [
            torch.cdist(
                self._compared(found, kind), self._compared(self.candidates(replace(kind, mirror=mirror))[name], kind)
            )
            for mirror in (False, True)
        ]
        distance = torch.minimum(*distances)
        right = distance.gather(1, torch.tensor(targets, device=distance.device)[:, None])
        return (distance < right).sum(dim=1).cpu()

    @staticmethod
    def _compared(maps: Tensor, kind: Scene) -> Tensor:
        """All of the picture, or the half that a thing on the left or right stands in."""
        if kind.layout in HALF_OF:
            maps = maps.unflatten(-1, (2, -1))[..., HALF_OF[kind.layout], :]
        return maps.flatten(1)


def ranks_by_kind(gallery: Gallery, images: Tensor, wanted: list[Scene]) -> dict[str, Tensor]:
    """`Gallery.ranks` for scenes of any kinds, in their order."""
    kinds: dict[tuple, list[int]] = {}
    for index, scene in enumerate(wanted):
        kinds.setdefault((scene.style, scene.colour, scene.layout), []).append(index)
    ranks = {name: torch.zeros(len(wanted), dtype=torch.long) for name in ("latent", "pixel")}
    for chosen in kinds.values():
        for name, found in gallery.ranks(images[chosen], [wanted[index] for index in chosen]).items():
            ranks[name][chosen] = found
    return ranks


def backgrounds_right(images: Tensor, wanted: list[Scene]) -> Tensor:
    """Is the palette's colour nearest to the picture's corners the one asked for? (B,) of bool."""
    colours = {name: torch.tensor(colour["rgb"]) / 127.5 - 1 for name, colour in palette().items()}
    size = max(2, images.shape[-1] // 16)
    ends = torch.cat([images[..., :size], images[..., -size:]], dim=-1)
    corners = torch.cat([ends[..., :size, :], ends[..., -size:, :]], dim=-1)
    median = corners.flatten(2).median(dim=-1).values.cpu()
    nearest = torch.cdist(median, torch.stack(list(colours.values()))).argmin(dim=1)
    return nearest == torch.tensor([list(colours).index(scene.colour) for scene in wanted])


def scores(gallery: Gallery, images: Tensor, wanted: list[Scene]) -> dict[str, float]:
    """Top-1 and top-5 by both descriptions; with coloured backgrounds also how often those are right, and both at once
    (by pixels).
    """
    ranks = ranks_by_kind(gallery, images, wanted)
    found = {f"{name} top-{n}": (values < n).float().mean().item() for name, values in ranks.items() for n in (1, 5)}
    if any(scene.colour != wanted[0].colour or scene.colour != "white" for scene in wanted):
        right = backgrounds_right(images, wanted)
        found["background"] = right.float().mean().item()
        found["thing and background"] = (right & (ranks["pixel"] < 1)).float().mean().item()
    return found
