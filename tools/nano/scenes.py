"""What a picture shows: one thing or two, in a style, somewhere on a background. Captions speak of scenes, pictures are
drawn from them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from .concepts import WHITE, Concept, Splits, palette

LAYOUTS = ("full", "small", "left", "right", "top", "bottom", "beside", "above")
PLACES = ("left", "right", "top", "bottom")
PAIRS = ("beside", "above")
COLOURED_SHARE = 0.35  # of small, placed and paired things: on a background that is not white
STYLED_SHARE = 0.4  # of scenes in another style than the first, where there is another

# layout -> (scale, (right, down)) of each thing; half a picture's side is 1
GEOMETRY: dict[str, tuple[tuple[float, tuple[float, float]], ...]] = {
    "full": ((1.0, (0.0, 0.0)),),
    "small": ((0.55, (0.0, 0.0)),),
    "left": ((0.5, (-0.48, 0.0)),),
    "right": ((0.5, (0.48, 0.0)),),
    "top": ((0.5, (0.0, -0.48)),),
    "bottom": ((0.5, (0.0, 0.48)),),
    "beside": ((0.5, (-0.48, 0.0)), (0.5, (0.48, 0.0))),
    "above": ((0.5, (0.0, -0.48)), (0.5, (0.0, 0.48))),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """concept, second: indices of things, the second (layouts "beside", "above") right of the first or below; style:
    index of a style.
    """

    concept: int
    style: int = 0
    colour: str = WHITE
    layout: str = "full"
    second: int | None = None
    mirror: bool = False

    def attributes(self, concepts: int) -> dict[str, int]:
        """What a caption of this scene tells, as numbers; a missing second thing is `concepts`."""
        return {
            "concept": self.concept,
            "second": concepts if self.second is None else self.second,
            "style": self.style,
            "colour": list(palette()).index(self.colour),
            "layout": LAYOUTS.index(self.layout),
        }


def attribute_sizes(concepts: int, styles: int) -> dict[str, int]:
    """Number of values of each attribute of a scene."""
    return {
        "concept": concepts,
        "second": concepts + 1,
        "style": styles,
        "colour": len(palette()),
        "layout": len(LAYOUTS),
    }


class SceneSource:
    """Random scenes that may be trained."""

    def __init__(
        self,
        concepts: list[Concept],
        splits: Splits,
        styles: tuple[str, ...],
        kinds: Mapping[str, float],
        *,
        mirrored: bool = True,
    ) -> None:
        self.concepts, self.splits, self.styles, self.kinds, self.mirrored = concepts, splits, styles, kinds, mirrored
        colours = [colour for colour in palette() if colour != WHITE]
        self.colours = {
            c.index: [colour for colour in colours if (c.name, colour) not in splits.pairs] for c in concepts
        }

    def bank(self, count: int, seed: int) -> list[Scene]:
        """`count` scenes: each thing alone in each of its styles, and mirrored, then random ones. Of more scenes the
        first are the same.
        """
        rng = random.Random(seed)
        ways = (False, True) if self.mirrored else (False,)
        plain = [
            Scene(concept=concept.index, style=style, mirror=mirror)
            for concept in self.concepts
            for style in self.drawn_styles(concept)
            for mirror in ways
        ]
        return plain[:count] + [self.draw(rng) for _ in range(count - len(plain))]

    def drawn_styles(self, concept: Concept) -> list[int]:
        """Styles in which a thing has a drawing that may be trained."""
        held_out = self.splits.no_style
        return [
            i
            for i, style in enumerate(self.styles)
            if style in concept.styles and (i == 0 or concept.name not in held_out)
        ]

    def draw(self, rng: random.Random) -> Scene:
        concept = rng.choice(self.concepts)
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        mirror = rng.random() < 0.5 and self.mirrored
        second = self.partner(concept, rng) if kind == "pair" else None
        style = self.style(rng, concept, *([] if second is None else [self.concepts[second]]))
        if kind == "background":
            return Scene(
                concept=concept.index, style=style, colour=rng.choice(self.colours[concept.index]), mirror=mirror
            )
        layout = {"plain": "full", "small": "small", "place": rng.choice(PLACES), "pair": rng.choice(PAIRS)}[kind]
        coloured = kind in ("place", "pair") and rng.random() < COLOURED_SHARE
        colour = rng.choice(self.colours[concept.index]) if coloured else WHITE
        return Scene(concept=concept.index, style=style, colour=colour, layout=layout, second=second, mirror=mirror)

    def partner(self, concept: Concept, rng: random.Random) -> int:
        """Another thing, of which the pair may be trained."""
        while True:
            other = rng.choice(self.concepts)
            if other.index != concept.index and frozenset((concept.name, other.name)) not in self.splits.couples:
                return other.index

    def style(self, rng: random.Random, *concepts: Concept) -> int:
        """A style that all these things are drawn in."""
        shared = set.intersection(*(set(self.drawn_styles(concept)) for concept in concepts))
        others = sorted(shared - {0})
        return rng.choice(others) if others and rng.random() < STYLED_SHARE else 0
