"""Captions of scenes, trained and held out: phrasings are in templates.json."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from .concepts import WHITE, Concept, Splits, palette, templates
from .scenes import Scene

CHINESE, EMOJI = 0.28, 0.2  # shares of captions
KEYWORD = 0.09  # share of English captions that name the thing by a CLDR keyword
FILLED = 0.15  # share of English names, and of English and Chinese captions, that get words which say nothing
INVENTED = 0.4  # share of the English ones that are letters at random


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text and the scene it asks for."""

    text: str
    scene: Scene


def with_article(name: str) -> str:
    """A name with "a" or "an"; plurals and words that take no article as they are."""
    last = name.split()[-1]
    if name in templates()["without_article"] or (last.endswith("s") and not last.endswith(("ss", "us", "is"))):
        return name
    return f"an {name}" if name[0].lower() in "aeiou" and not name.startswith(("unicorn", "ufo")) else f"a {name}"


class CaptionSource:
    """Random trained captions of scenes."""

    def __init__(self, concepts: list[Concept], splits: Splits, styles: Sequence[str]) -> None:
        self.concepts, self.splits, self.styles = concepts, splits, styles
        english_words = {
            word.lower() for c in concepts for name in (c.name, *c.aliases, *c.keywords) for word in name.split()
        }
        chinese_names = {name for c in concepts for name in (c.zh, *c.zh_aliases, *c.zh_keywords)}
        self.fillers = [word for word in templates()["fillers"] if word not in english_words]
        self.chinese_fillers = [word for word in templates()["zh_fillers"] if word not in chinese_names]

    def draw(self, scene: Scene, rng: random.Random) -> Caption:
        things = [self.concepts[index] for index in (scene.concept, scene.second) if index is not None]
        kind = rng.random()
        if kind < CHINESE and not any(thing.name in self.splits.no_chinese for thing in things):
            text = self.filled_chinese(
                chinese(scene, self.styles, [self.chinese_name(thing, rng) for thing in things], rng), rng
            )
        elif kind < CHINESE + EMOJI and scene.colour == WHITE and scene.layout in ("full", "beside"):
            text = emoji(scene, self.styles, things, rng)
        else:
            text = cased(
                self.filled(english(scene, self.styles, [self.english_name(thing, rng) for thing in things], rng), rng),
                rng,
            )
        return Caption(text=text, scene=scene)

    def english_name(self, thing: Concept, rng: random.Random) -> str:
        keywords = [word for word in thing.keywords if word != self.splits.keywords.get(thing.name)]
        if keywords and rng.random() < KEYWORD:
            return rng.choice(keywords)
        name = rng.choice((thing.name, *thing.aliases))
        name = f"{self.filler(rng)} {name}" if rng.random() < FILLED else name
        return name.lower() if rng.random() < 0.1 else name

    def filled(self, text: str, rng: random.Random) -> str:
        """People write more than a caption needs: now and then words before or after it, so that the model learns to
        read past them.
        """
        if rng.random() >= FILLED:
            return text
        words = " ".join(self.filler(rng) for _ in range(rng.randint(1, 4)))
        return rng.choice((f"{words} {text}", f"{text} {words}", f"{text}, {words}"))

    def filled_chinese(self, text: str, rng: random.Random) -> str:
        """As `filled`, one word."""
        if rng.random() >= FILLED:
            return text
        word = rng.choice(self.chinese_fillers)
        return f"{word}{text}" if rng.random() < 0.6 else f"{text}\uff0c{word}"

    def filler(self, rng: random.Random) -> str:
        """A word that names nothing: one that prompts often have, or letters at random."""
        if rng.random() < INVENTED:
            return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 8)))
        return rng.choice(self.fillers)

    def chinese_name(self, thing: Concept, rng: random.Random) -> str:
        others = thing.zh_aliases * 3 + thing.zh_keywords
        return rng.choice(others) if others and rng.random() < 0.2 else thing.zh


def english(scene: Scene, styles: Sequence[str], names: list[str], rng: random.Random, suffix: str = "") -> str:
    """A caption in English from the templates whose key ends in `suffix` where there are such ("_held_out"), else from
    the trained ones.
    """
    plain = scene.layout == "full" and scene.colour == WHITE and scene.style == 0
    if plain:
        return rng.choice(phrasings("trained" if not suffix else suffix.lstrip("_"))).format(
            a=with_article(names[0]), name=names[0]
        )
    text, bare = with_article(names[0]), names[0]
    if scene.layout == "small":
        text = bare = rng.choice(phrasings("small")).format(name=names[0])
    elif scene.second is not None:
        text = bare = rng.choice(phrasings(f"pair_{scene.layout}", suffix)).format(
            a=with_article(names[0]), b=with_article(names[1])
        )
    elif scene.layout != "full":
        text = bare = rng.choice(phrasings(f"place_{scene.layout}", suffix)).format(
            a=with_article(names[0]), name=names[0]
        )
    if scene.colour != WHITE:
        article = "an" if scene.colour[0] in "aeiou" else "a"
        text = bare = rng.choice(phrasings("background", suffix)).format(
            a=text, name=bare, b=article, colour=scene.colour
        )
    if scene.style:
        text = rng.choice(phrasings(style_key(styles[scene.style]), suffix)).format(a=text, name=bare)
    return text


def chinese(scene: Scene, styles: Sequence[str], names: list[str], rng: random.Random, suffix: str = "") -> str:
    """As `english`. The parts are joined without spaces."""
    if scene.layout == "full" and scene.colour == WHITE and scene.style == 0:
        return rng.choice(phrasings("zh", suffix)).format(zh=names[0])
    text = names[0]
    if scene.layout == "small":
        text = rng.choice(phrasings("zh_small")).format(zh=text)
    elif scene.second is not None:
        text = rng.choice(phrasings(f"zh_pair_{scene.layout}")).format(zh=names[0], zh_b=names[1])
    elif scene.layout != "full":
        text = rng.choice(phrasings(f"zh_place_{scene.layout}")).format(zh=text)
    if scene.colour != WHITE:
        text = rng.choice(phrasings("zh_background")).format(zh=text, zh_colour=palette()[scene.colour]["zh"])
    return rng.choice(phrasings("zh_" + style_key(styles[scene.style]))).format(zh=text) if scene.style else text


def emoji(scene: Scene, styles: Sequence[str], things: list[Concept], rng: random.Random) -> str:
    """The characters themselves, with the style in words."""
    if scene.second is not None:
        text = "".join(thing.emoji for thing in things)
    else:
        text = rng.choice(phrasings("emoji")).format(emoji=things[0].emoji, name=things[0].name)
    return rng.choice(phrasings(style_key(styles[scene.style]))).format(a=text, name=text) if scene.style else text


def phrasings(key: str, suffix: str = "") -> list[str]:
    """The templates under key + suffix, or under the key where there are no such."""
    return templates().get(key + suffix) or templates()[key]


def style_key(style: str) -> str:
    """The key of the templates that call for a style."""
    return templates()["styles"][style]


def cased(text: str, rng: random.Random) -> str:
    """People begin a prompt with a capital or end it with a full stop now and then."""
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.1 else text


def evaluation_sets(concepts: list[Concept], splits: Splits, styles: Sequence[str]) -> dict[str, list[Caption]]:
    """The evaluation captions by split. "names", "Chinese names" and "emoji" are trained; what is held out says so."""
    rng = random.Random(0)
    by_name = {concept.name: concept for concept in concepts}

    def phrase(scene: Scene, suffix: str = "") -> Caption:
        names = [concepts[index].name for index in (scene.concept, scene.second) if index is not None]
        return Caption(text=english(scene, styles, names, rng, suffix), scene=scene)

    speaking = [concept for concept in concepts if concept.name not in splits.no_chinese]
    sets = {
        "names": [Caption(text=with_article(c.name), scene=Scene(concept=c.index)) for c in concepts],
        "Chinese names": [Caption(text=c.zh, scene=Scene(concept=c.index)) for c in speaking],
        "emoji": [Caption(text=c.emoji, scene=Scene(concept=c.index)) for c in concepts],
        "trained phrasings": [phrase(Scene(concept=c.index)) for c in concepts],
        "held-out phrasings": [phrase(Scene(concept=c.index), "_held_out") for c in concepts],
        "held-out Chinese phrasings": [
            Caption(
                text=chinese(Scene(concept=c.index), styles, [c.zh], rng, "_held_out"), scene=Scene(concept=c.index)
            )
            for c in speaking
        ],
        "held-out keywords": [
            Caption(text=word, scene=Scene(concept=by_name[name].index)) for name, word in splits.keywords.items()
        ],
        "concepts without Chinese": [
            Caption(text=c.zh, scene=Scene(concept=c.index)) for c in concepts if c.name in splits.no_chinese
        ],
        "held-out backgrounds": [
            phrase(Scene(concept=by_name[name].index, colour=colour)) for name, colour in sorted(splits.pairs)
        ],
    }
    if len(styles) > 1:
        drawn = [c for c in concepts if len(c.styles) > 1]
        sets["second style"] = [phrase(Scene(concept=c.index, style=1)) for c in drawn if c.name not in splits.no_style]
        sets["held-out in the second style"] = [
            phrase(Scene(concept=c.index, style=1)) for c in drawn if c.name in splits.no_style
        ]
    if splits.couples:
        couples = sorted(sorted(couple) for couple in splits.couples)
        sets["held-out couples"] = [
            phrase(Scene(concept=by_name[a].index, second=by_name[b].index, layout="beside")) for a, b in couples
        ]
    return {name: captions for name, captions in sets.items() if captions}
