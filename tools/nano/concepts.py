"""The things that can be drawn, their names, and what is kept back from training.

A splits file beside this one fixes what is held out; it is written once, before any training of its size:

    python -m tools.nano.concepts WORK --size 256
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .command import parse
from .sizes import Size

HERE = Path(__file__).parent
WHITE = "white"
PERSONS = {"1f468", "1f469", "1f9d1", "2640", "2642", "200d"}  # man, woman, person, the two signs, the joiner


@cache
def templates() -> dict:
    """templates.json: phrasings, colours, names without an article."""
    return json.loads((HERE / "templates.json").read_text(encoding="utf-8"))


def palette() -> dict[str, dict]:
    """Background colours: name -> {"rgb": [0..255] * 3, "zh": name}; white is first."""
    return templates()["colours"]


@cache
def skipped_words() -> frozenset[str]:
    """CLDR keywords that name no picture ("big", "one")."""
    return frozenset((HERE / "skip_words.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing and the names that mean it alone. Keywords are CLDR's, those of no other concept here. styles: that it
    is drawn in.
    """

    index: int
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    zh: str
    zh_aliases: tuple[str, ...]
    zh_keywords: tuple[str, ...]
    emoji: str
    styles: tuple[str, ...]

    @property
    def hexcode(self) -> str:
        """The name of its drawings: code points without the variation selector."""
        return "-".join(f"{ord(char):x}" for char in self.emoji)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What is never trained.

    keywords: CLDR keywords by concept; pairs: (concept, background); no_chinese: concepts without any Chinese caption;
    no_style: concepts that are only trained in the first style; couples: two concepts in one picture; drawings:
    "style/hexcode" that no stage sees.
    """

    keywords: dict[str, str]
    pairs: frozenset[tuple[str, str]]
    no_chinese: frozenset[str]
    no_style: frozenset[str] = frozenset()
    couples: frozenset[frozenset[str]] = frozenset()
    drawings: frozenset[str] = frozenset()


def load_concepts(work: Path) -> list[Concept]:
    """The concepts of WORK/names.json in its order."""
    records = json.loads((work / "names.json").read_text(encoding="utf-8"))["concepts"]
    claimed = {
        key: Counter(word for record in records for word in set(record[key])) for key in ("keywords", "zh_keywords")
    }
    named = {
        word.lower()
        for record in records
        for word in (record["name"], *record["aliases"], record["zh"], *record["zh_aliases"])
    }

    def own(record: dict, key: str) -> tuple[str, ...]:
        words = [
            word for word in record[key] if claimed[key][word] == 1 and word.lower() not in named | skipped_words()
        ]
        # a Chinese keyword that shares no character with the name is mostly an association ("zoo"), not another name
        return tuple(word for word in words if key == "keywords" or set(word) & set(record["zh"]))

    return [
        Concept(
            index=index, name=record["name"], aliases=tuple(record["aliases"]), keywords=own(record, "keywords"),
            zh=record["zh"],
            zh_aliases=tuple(record["zh_aliases"]), zh_keywords=own(record, "zh_keywords"), emoji=record["emoji"],
            styles=tuple(record["styles"]),
        )
        for index, record in enumerate(records)
    ]  # fmt: skip


def load_splits(size: Size, concepts: list[Concept], other_drawings: list[str]) -> Splits:
    """The splits of a size: from its file, or chosen afresh where it has none. other_drawings: "style/hexcode" beside
    the concepts'.
    """
    if size.splits is None:
        return parse_splits(choose_splits(concepts, other_drawings, seed=0))
    return parse_splits(json.loads((HERE / size.splits).read_text(encoding="utf-8")))


def parse_splits(data: dict) -> Splits:
    return Splits(
        keywords=data["keywords"],
        pairs=frozenset((name, colour) for name, colour in data["pairs"]),
        no_chinese=frozenset(data["no_chinese"]),
        no_style=frozenset(data.get("no_style", ())),
        couples=frozenset(frozenset(couple) for couple in data.get("couples", ())),
        drawings=frozenset(data["drawings"]),
    )


def choose_splits(concepts: list[Concept], other_drawings: list[str], *, seed: int) -> dict:
    """About a tenth of each kind, and a third of the things with two keywords; at most 100 keywords, 400 pairs, 30
    concepts without Chinese or second style, 100 couples.

    Of the drawings without a name at most 40 families of each style's, the same ones: a woman's and a man's version are
    not apart.
    """
    rng = random.Random(seed)
    colours = [colour for colour in palette() if colour != WHITE]

    def some(values: list, most: int, share: int = 10) -> list:
        return rng.sample(values, min(most, max(1, len(values) // share)))

    named = {concept.hexcode for concept in concepts}
    families = sorted({family(drawing) for drawing in other_drawings if drawing.split("/")[1] not in named})
    unseen = set(some(families, 40))
    spare = [concept for concept in concepts if len(concept.keywords) >= 2]
    names = [concept.name for concept in concepts]
    couples = {frozenset(rng.sample(names, 2)) for _ in range(min(100, len(names)))}
    return {
        "keywords": {
            concept.name: rng.choice(concept.keywords)
            for concept in sorted(some(spare, 100, share=3), key=lambda c: c.index)
        },
        "pairs": sorted(some([(name, colour) for name in names for colour in colours], 400)),
        "no_chinese": sorted(some(names, 30)),
        "no_style": sorted(some([concept.name for concept in concepts if len(concept.styles) > 1], 30)),
        "couples": sorted(sorted(couple) for couple in couples),
        "drawings": sorted(drawing for drawing in other_drawings if family(drawing) in unseen),
    }


def family(drawing: str) -> tuple[str, ...]:
    """What the versions of a drawing for persons of either gender, in every style, have in common."""
    return tuple(sorted(set(drawing.split("/")[1].split("-")) - PERSONS))


def load_names(work: Path, size: Size) -> tuple[list[Concept], list[str], Splits]:
    """(concepts, the drawings beside theirs, splits) of a data folder."""
    concepts = load_concepts(work)
    others = json.loads((work / "names.json").read_text(encoding="utf-8"))["others"]
    return concepts, others, load_splits(size, concepts, others)


def main() -> None:
    command = parse(__doc__)
    if command.size.splits is None:
        raise SystemExit(f"the size {command.size.name} has no splits file: it chooses its splits afresh")
    path = HERE / command.size.splits
    if path.exists():
        raise SystemExit(f"{path} is fixed: delete it only to begin a new training from scratch")
    others = json.loads((command.work / "names.json").read_text(encoding="utf-8"))["others"]
    splits = choose_splits(load_concepts(command.work), others, seed=0)
    path.write_text(json.dumps(splits, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
