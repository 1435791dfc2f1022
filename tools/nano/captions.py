"""Captions and their splits: which phrasing of which picture is trained, and which is kept back for the evaluation.

`splits.json` beside this file fixes what is held out. It was written once, before any training, by `python tools/nano/captions.py WORK`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TEMPLATES = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))
COLOURS = TEMPLATES["colours"]
SKIPPED = frozenset((HERE / "skip_words.txt").read_text(encoding="utf-8").split())  # CLDR keywords that name no picture ("big", "one")
WHITE = "white"
PLURAL = {  # names that take no article
    "grapes",
    "cherries",
    "blueberries",
    "pancakes",
    "french fries",
    "fries",
    "jeans",
    "glasses",
    "sunglasses",
    "eyeglasses",
    "scissors",
    "books",
    "headphones",
    "noodles",
    "bread",
    "bacon",
    "popcorn",
    "spaghetti",
    "pasta",
    "sushi",
    "garlic",
    "broccoli",
    "corn",
    "milk",
    "coffee",
    "honey",
    "soap",
    "fire",
    "earth",
    "halloween",
    "planet saturn",
    "chocolate",
    "beer",
    "yarn",
}


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One drawing and the names that mean it alone. Keywords are CLDR's, those of no other concept here."""

    index: int
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    zh: str
    zh_aliases: tuple[str, ...]
    zh_keywords: tuple[str, ...]
    emoji: str


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What is never trained: CLDR keywords by concept, (concept, background) pairs, concepts without any Chinese caption."""

    keywords: dict[str, str]
    pairs: frozenset[tuple[str, str]]
    no_chinese: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text and the picture it asks for."""

    text: str
    concept: int
    colour: str = WHITE
    small: bool = False


def load_concepts(work: Path) -> list[Concept]:
    records = json.loads((work / "names.json").read_text(encoding="utf-8"))
    claimed = {key: Counter(word for record in records for word in set(record[key])) for key in ("keywords", "zh_keywords")}
    named = {word.lower() for record in records for word in (record["name"], *record["aliases"], record["zh"], *record["zh_aliases"])}

    def own(record: dict, key: str) -> tuple[str, ...]:
        words = [word for word in record[key] if claimed[key][word] == 1 and word.lower() not in named | SKIPPED]
        # a Chinese keyword that shares no character with the name is mostly an association ("zoo"), not another name
        return tuple(word for word in words if key == "keywords" or set(word) & set(record["zh"]))

    return [
        Concept(
            index=index,
            name=record["name"],
            aliases=tuple(record["aliases"]),
            keywords=own(record, "keywords"),
            zh=record["zh"],
            zh_aliases=tuple(record["zh_aliases"]),
            zh_keywords=own(record, "zh_keywords"),
            emoji=record["emoji"],
        )
        for index, record in enumerate(records)
    ]


def load_splits(path: Path = HERE / "splits.json") -> Splits:
    data = json.loads(path.read_text(encoding="utf-8"))
    pairs = frozenset((name, colour) for name, colour in data["pairs"])
    return Splits(keywords=data["keywords"], pairs=pairs, no_chinese=frozenset(data["no_chinese"]))


def fill(template: str, name: str, concept: Concept, colour: str = WHITE) -> str:
    """A template with its blanks filled: {a} is the name with its article, {b} the article of the colour."""
    return template.format(
        a=with_article(name),
        name=name,
        zh=concept.zh,
        emoji=concept.emoji,
        colour=colour,
        zh_colour=COLOURS[colour]["zh"],
        b="an" if colour[0] in "aeiou" else "a",
    )


def with_article(name: str) -> str:
    if name in PLURAL:
        return name
    return f"an {name}" if name[0].lower() in "aeiou" and not name.startswith(("unicorn", "ufo")) else f"a {name}"


class CaptionSource:
    """Random trained captions of a concept."""

    def __init__(self, concepts: list[Concept], splits: Splits) -> None:
        self.concepts, self.splits = concepts, splits
        colours = [colour for colour in COLOURS if colour != WHITE]
        self.colours = [[colour for colour in colours if (concept.name, colour) not in splits.pairs] for concept in concepts]

    def names(self, concept: Concept) -> list[str]:
        """English names to draw from: half of the time the first or an everyday one, otherwise a keyword."""
        return [concept.name, *concept.aliases]

    def keywords(self, concept: Concept) -> list[str]:
        return [word for word in concept.keywords if word != self.splits.keywords.get(concept.name)]

    def draw(self, concept: Concept, rng: random.Random) -> Caption:
        kind = rng.random()
        if kind < 0.20 and concept.name not in self.splits.no_chinese:
            return self.chinese(concept, rng)
        if kind < 0.29:
            return Caption(text=rng.choice(TEMPLATES["emoji"]).format(emoji=concept.emoji, name=concept.name), concept=concept.index)
        name = rng.choice(self.names(concept))
        keywords = self.keywords(concept)
        if kind < 0.37 and keywords:
            name = rng.choice(keywords)
        if rng.random() < 0.1:
            name = name.lower()
        kind = rng.random()
        if kind < 0.72:
            return Caption(text=cased(fill(rng.choice(TEMPLATES["trained"]), name, concept), rng), concept=concept.index)
        if kind < 0.92:
            colour = rng.choice(self.colours[concept.index])
            text = fill(rng.choice(TEMPLATES["background"]), name, concept, colour)
            return Caption(text=cased(text, rng), concept=concept.index, colour=colour)
        return Caption(text=cased(fill(rng.choice(TEMPLATES["small"]), name, concept), rng), concept=concept.index, small=True)

    def chinese(self, concept: Concept, rng: random.Random) -> Caption:
        kind = rng.random()
        others = concept.zh_aliases * 3 + concept.zh_keywords
        if kind < 0.2 and others:
            return Caption(text=rng.choice(others), concept=concept.index)
        if kind < 0.78:
            return Caption(text=fill(rng.choice(TEMPLATES["zh"]), concept.name, concept), concept=concept.index)
        if kind < 0.94:
            colour = rng.choice(self.colours[concept.index])
            return Caption(
                text=fill(rng.choice(TEMPLATES["zh_background"]), concept.name, concept, colour), concept=concept.index, colour=colour
            )
        return Caption(text=fill(rng.choice(TEMPLATES["zh_small"]), concept.name, concept), concept=concept.index, small=True)


def cased(text: str, rng: random.Random) -> str:
    """People begin a prompt with a capital or end it with a full stop now and then."""
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.1 else text


def held_out(concepts: list[Concept], splits: Splits) -> dict[str, list[Caption]]:
    """The evaluation captions by split; "names" is the trained one to compare with."""
    rng = random.Random(0)
    sets: dict[str, list[Caption]] = {
        "names": [Caption(text=with_article(c.name), concept=c.index) for c in concepts],
        "trained templates": [Caption(text=fill(rng.choice(TEMPLATES["trained"]), c.name, c), concept=c.index) for c in concepts],
        "held-out templates": [Caption(text=fill(rng.choice(TEMPLATES["held_out"]), c.name, c), concept=c.index) for c in concepts],
        "held-out keywords": [Caption(text=splits.keywords[c.name], concept=c.index) for c in concepts if c.name in splits.keywords],
        "Chinese names": [Caption(text=c.zh, concept=c.index) for c in concepts if c.name not in splits.no_chinese],
        "held-out Chinese templates": [
            Caption(text=fill(rng.choice(TEMPLATES["zh_held_out"]), c.name, c), concept=c.index)
            for c in concepts
            if c.name not in splits.no_chinese
        ],
        "concepts without Chinese": [Caption(text=c.zh, concept=c.index) for c in concepts if c.name in splits.no_chinese],
        "emoji": [Caption(text=c.emoji, concept=c.index) for c in concepts],
    }
    by_name = {c.name: c for c in concepts}
    sets["held-out backgrounds"] = [
        Caption(text=fill("{a} on {b} {colour} background", name, by_name[name], colour), concept=by_name[name].index, colour=colour)
        for name, colour in sorted(splits.pairs)
    ]
    return sets


def choose_splits(concepts: list[Concept], seed: int = 0) -> dict:
    rng = random.Random(seed)
    with_spare = [c for c in concepts if len(c.keywords) >= 2]
    colours = [colour for colour in COLOURS if colour != WHITE]
    pairs = [(c.name, colour) for c in concepts for colour in colours]
    return {
        "keywords": {c.name: rng.choice(c.keywords) for c in sorted(rng.sample(with_spare, 50), key=lambda c: c.index)},
        "pairs": sorted(rng.sample(pairs, 200)),
        "no_chinese": sorted(c.name for c in rng.sample(concepts, 12)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    path = HERE / "splits.json"
    if path.exists():
        raise SystemExit(f"{path} is fixed: delete it only to begin a new training from scratch")
    path.write_text(json.dumps(choose_splits(load_concepts(args.work)), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
