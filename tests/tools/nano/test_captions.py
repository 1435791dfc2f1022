"""Concepts, scenes, captions, and what of them is never trained."""

import json
import random
from dataclasses import replace

import pytest

from tools.nano import concepts as concepts_file
from tools.nano.captions import CaptionSource, evaluation_sets, with_article
from tools.nano.concepts import Concept, Splits, choose_splits, family, palette, parse_splits, templates
from tools.nano.data import read_listed
from tools.nano.scenes import LAYOUTS, SceneSource, attribute_sizes

STYLES = ("noto", "fluent3d")
APPLE = Concept(
    index=0, name="red apple", aliases=("apple",), keywords=("ripe", "core"), zh="\u7ea2\u82f9\u679c",
    zh_aliases=("\u82f9\u679c",), zh_keywords=(), emoji="\U0001f34e", styles=STYLES,
)  # fmt: skip
OWL = replace(
    APPLE, index=1, name="owl", aliases=(), keywords=(), zh="\u732b\u5934\u9e70", zh_aliases=(), emoji="\U0001f989"
)
KEY = replace(OWL, index=2, name="key", zh="\u94a5\u5319", emoji="\U0001f511", styles=("noto",))
THINGS = [APPLE, OWL, KEY]
SPLITS = Splits(
    keywords={"red apple": "ripe"}, pairs=frozenset({("red apple", "blue")}), no_chinese=frozenset({"owl"}),
    no_style=frozenset({"owl"}), couples=frozenset({frozenset({"red apple", "key"})}),
)  # fmt: skip
KINDS = {"plain": 0.3, "background": 0.2, "small": 0.1, "place": 0.2, "pair": 0.2}
NAMES = {0: ("apple", "core", "\u82f9\u679c"), 1: ("owl", "\u732b"), 2: ("key", "\u94a5\u5319")}


@pytest.fixture(scope="module")
def drawn():
    rng = random.Random(0)
    scenes, captions = SceneSource(THINGS, SPLITS, STYLES, KINDS), CaptionSource(THINGS, SPLITS, STYLES)
    return [captions.draw(scenes.draw(rng), rng) for _ in range(6000)]


def test_held_out_captions_are_never_drawn(drawn):
    for caption in drawn:
        things = {caption.scene.concept, caption.scene.second}
        assert "ripe" not in caption.text.lower()
        assert not (caption.scene.concept == 0 and caption.scene.colour == "blue")
        assert not (1 in things and "\u732b" in caption.text)  # no Chinese name
        assert not (1 in things and caption.scene.style == 1) and not (2 in things and caption.scene.style == 1)
        assert things != {0, 2}
    texts = " ".join(caption.text.lower() for caption in drawn)
    assert "core" in texts and "\u82f9\u679c" in texts and "\U0001f989" in texts


def test_words_that_say_nothing_name_nothing(drawn):
    source, texts = CaptionSource(THINGS, SPLITS, STYLES), [caption.text.lower() for caption in drawn]
    for fillers in (source.fillers, source.chinese_fillers):
        used = [word for word in fillers if any(word in text for text in texts)]
        assert len(used) > 0.8 * len(fillers)
    named = CaptionSource([replace(APPLE, name="magical kids", zh="\u58c1\u7eb8")], SPLITS, STYLES)
    assert set(source.fillers) - set(named.fillers) == {"magical", "kids"}
    assert set(source.chinese_fillers) - set(named.chinese_fillers) == {"\u58c1\u7eb8"}


def test_words_that_say_nothing_are_not_of_held_out_phrasings_alone():
    phrasings = {key: " ".join(value) for key, value in templates().items() if isinstance(value, list)}
    trained = " ".join(text for key, text in phrasings.items() if not key.endswith(("held_out", "fillers")))
    held_out = " ".join(text for key, text in phrasings.items() if key.endswith("held_out"))
    assert not (set(held_out.split()) - set(trained.split())) & set(templates()["fillers"])
    assert not [word for word in templates()["zh_fillers"] if word in held_out and word not in trained]


def test_captions_tell_the_scene(drawn):
    for caption in drawn:
        text, scene = caption.text.lower(), caption.scene
        emoji = [thing.emoji for thing in THINGS if thing.emoji in text]
        for thing in (scene.concept, scene.second):
            assert thing is None or emoji or any(name in text for name in NAMES[thing]), caption
        assert (scene.style == 1) == any(word in text for word in ("3d", "\u7acb\u4f53")), caption
        colour = palette()[scene.colour]
        assert scene.colour == "white" or scene.colour in text or colour["zh"] in text, caption
        small = any(word in text for word in ("small", "tiny", "little", "\u5c0f"))
        assert small == (scene.layout == "small"), caption


def test_all_kinds_of_scenes_are_drawn(drawn):
    assert {caption.scene.layout for caption in drawn} == set(LAYOUTS)
    assert {caption.scene.colour for caption in drawn} == set(palette())
    assert {caption.scene.style for caption in drawn} == {0, 1}


def test_attributes_are_within_their_sizes(drawn):
    sizes = attribute_sizes(len(THINGS), len(STYLES))
    for caption in drawn:
        values = caption.scene.attributes(len(THINGS))
        assert values.keys() == sizes.keys() and all(0 <= values[name] < sizes[name] for name in sizes)


def test_a_bank_has_every_thing_alone_and_is_the_same_for_a_seed():
    source = SceneSource(THINGS, SPLITS, STYLES, KINDS)
    bank = source.bank(50, seed=3)
    assert bank == source.bank(50, seed=3) != source.bank(50, seed=4)
    assert {(scene.concept, scene.style) for scene in bank[:8]} == {(0, 0), (0, 1), (1, 0), (2, 0)}
    assert len(bank) == 50
    assert {scene.mirror for scene in bank[:8]} == {scene.mirror for scene in bank[8:]} == {False, True}


def test_a_bank_without_mirrored_scenes_has_the_same_ones_otherwise():
    one_way = SceneSource(THINGS, SPLITS, STYLES, KINDS, mirrored=False).bank(50, seed=3)
    assert len(one_way) == 50 and not any(scene.mirror for scene in one_way)
    both = SceneSource(THINGS, SPLITS, STYLES, KINDS).bank(54, seed=3)
    assert one_way[4:] == [replace(scene, mirror=False) for scene in both[8:]]


def test_evaluation_asks_for_what_was_held_out():
    sets = evaluation_sets(THINGS, SPLITS, STYLES)
    assert [caption.text for caption in sets["held-out keywords"]] == ["ripe"]
    assert {(caption.scene.concept, caption.scene.colour) for caption in sets["held-out backgrounds"]} == {(0, "blue")}
    assert [caption.text for caption in sets["concepts without Chinese"]] == ["\u732b\u5934\u9e70"]
    assert {caption.scene.concept for caption in sets["held-out in the second style"]} == {1}
    assert {frozenset((c.scene.concept, c.scene.second)) for c in sets["held-out couples"]} == {frozenset((0, 2))}
    assert not {caption.text for caption in sets["held-out phrasings"]} & {
        caption.text for caption in sets["trained phrasings"]
    }
    assert sets == evaluation_sets(THINGS, SPLITS, STYLES)


def test_held_out_phrasings_are_not_among_the_trained():
    known = templates()
    assert not set(known["held_out"]) & set(known["trained"])
    for key in ("background", "zh", "style"):
        assert not set(known[f"{key}_held_out"]) & set(known[key])


@pytest.mark.parametrize("file", ["splits.json", "splits_256.json"])
def test_splits_files_are_whole(file):
    splits = parse_splits(json.loads((concepts_file.HERE / file).read_text(encoding="utf-8")))
    assert splits.keywords and splits.pairs and splits.no_chinese and splits.drawings
    assert {colour for _, colour in splits.pairs} == set(palette()) - {"white"}
    if file == "splits.json":
        assert set(splits.keywords) | splits.no_chinese | {name for name, _ in splits.pairs} <= set(read_listed())


def test_splits_are_chosen_by_the_seed_and_keep_families_together():
    many = [
        replace(KEY, index=i, name=f"key {i}", emoji=chr(0x1F400 + i), keywords=("a", "b"), styles=STYLES)
        for i in range(60)
    ]
    codes = ("1f9de", "1f9de-200d-2640", "1f468-200d-1f373", "1f469-200d-1f373", "2764")
    others = [f"{style}/{code}" for style in STYLES for code in codes]
    splits = choose_splits(many, others, seed=0)
    assert splits == choose_splits(many, others, seed=0) != choose_splits(many, others, seed=1)
    held_out = set(splits["drawings"])
    assert held_out and all(
        (other in held_out) == any(family(other) == family(one) for one in held_out) for other in others
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("owl", "an owl"), ("bee", "a bee"), ("unicorn", "a unicorn"), ("jeans", "jeans"),
     ("crossed swords", "crossed swords"), ("cactus", "a cactus"), ("wine glass", "a wine glass")],
)  # fmt: skip
def test_articles(name, expected):
    assert with_article(name) == expected
