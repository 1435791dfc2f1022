"""What the training scripts in tools/nano compute: captions and their splits, pictures, optimizer, one training in small."""

import random
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "nano"))

import captions  # noqa: E402
import optimizer  # noqa: E402
import pictures  # noqa: E402
import train_autoencoder  # noqa: E402
import train_transformer  # noqa: E402
from captions import Caption, CaptionSource, Concept, Splits  # noqa: E402

APPLE = Concept(
    index=0, name="red apple", aliases=("apple",), keywords=("ripe", "core"), zh="\u7ea2\u82f9\u679c", zh_aliases=("\u82f9\u679c",),
    zh_keywords=(), emoji="\U0001f34e",
)  # fmt: skip
OWL = Concept(index=1, name="owl", aliases=(), keywords=(), zh="\u732b\u5934\u9e70", zh_aliases=(), zh_keywords=(), emoji="\U0001f989")
SPLITS = Splits(keywords={"red apple": "ripe"}, pairs=frozenset({("red apple", "blue")}), no_chinese=frozenset({"owl"}))


def drawn(concept, count=2000):
    source, rng = CaptionSource([APPLE, OWL], SPLITS), random.Random(0)
    return [source.draw(concept, rng) for _ in range(count)]


def test_held_out_captions_are_never_drawn():
    apples, owls = drawn(APPLE), drawn(OWL)
    assert not any("ripe" in caption.text.lower() or "blue" in caption.text or caption.colour == "blue" for caption in apples)
    assert any("core" in caption.text.lower() for caption in apples) and any(caption.colour == "blue" for caption in owls)
    assert not any("\u732b" in caption.text for caption in owls)
    assert any("\u82f9\u679c" in caption.text for caption in apples)


def test_captions_tell_the_picture():
    for caption in drawn(APPLE) + drawn(OWL):
        if caption.colour != "white":
            assert caption.colour in caption.text or captions.COLOURS[caption.colour]["zh"] in caption.text
        assert caption.small == any(word in caption.text for word in ("small", "tiny", "little", "\u5c0f"))


def test_held_out_phrasings_are_not_among_the_trained():
    templates = captions.TEMPLATES
    assert not set(templates["held_out"]) & set(templates["trained"])
    assert not set(templates["background_held_out"]) & set(templates["background"])
    assert not set(templates["zh_held_out"]) & set(templates["zh"])


def test_splits_speak_of_listed_concepts():
    listed = {line.split(" |")[0] for line in (ROOT / "tools/nano/concepts.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"}
    splits = captions.load_splits()
    assert set(splits.keywords) | splits.no_chinese | {name for name, _ in splits.pairs} <= listed
    assert {colour for _, colour in splits.pairs} == set(captions.COLOURS) - {"white"}


@pytest.mark.parametrize(("name", "expected"), [("owl", "an owl"), ("bee", "a bee"), ("unicorn", "a unicorn"), ("jeans", "jeans")])
def test_articles(name, expected):
    assert captions.with_article(name) == expected


def test_mirroring_twice_and_moving_back_change_nothing():
    drawing = torch.rand(1, 4, 128, 128)
    one, none, mirror = torch.ones(1), torch.zeros(1, 2), torch.tensor([True])
    mirrored = pictures.place(drawing, one, none, mirror)
    torch.testing.assert_close(mirrored, drawing.flip(-1), atol=1e-4, rtol=0)
    moved = pictures.place(drawing, one, torch.tensor([[0.25, 0.0]]), ~mirror)
    torch.testing.assert_close(moved[..., 16:], drawing[..., :-16], atol=1e-4, rtol=0)


def test_a_small_drawing_stands_in_the_middle():
    placed = pictures.place(torch.ones(1, 4, 128, 128), torch.tensor([0.5]), torch.zeros(1, 2), torch.tensor([False]))
    assert placed[0, 3, 40:88, 40:88].min() == 1 and placed[0, 3, :28].max() == placed[0, 3, 100:].max() == 0


def test_pictures_show_their_background():
    drawing = torch.zeros(1, 4, 8, 8)
    drawing[:, :, 2:4, 2:4] = torch.tensor([0.25, 0.5, 0.0, 1.0])[:, None, None]
    image = pictures.compose(drawing, torch.tensor([[1.0, 0.0, 0.5]]))
    assert image[0, :, 0, 0].tolist() == [1.0, -1.0, 0.0] and image[0, :, 2, 2].tolist() == [-0.5, 0.0, -1.0]


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (64, 64)])
def test_muon_orthogonalises(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optimizer.orthogonalize(matrix))
    assert values.max() < 1.25 and values.median() > 0.6


def test_learning_rate_rises_stays_and_falls():
    rates = [optimizer.schedule(progress) for progress in (0.0, 0.02, 0.5, 0.75, 1.0)]
    assert rates[0] < 0.2 and rates[1] == rates[2] == 1.0 and rates[3] == 0.5 and rates[4] == 0.02


def test_the_latent_penalty_is_least_at_the_published_scale():
    latent = torch.randn(64, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    at = {std: train_autoencoder.latent_penalty(std * latent).item() for std in (1.2, 2.4, 4.8)}
    assert at[2.4] < 0.01 < 0.1 < min(at[1.2], at[4.8])
    assert train_autoencoder.latent_penalty(2.4 * latent + 2.4).item() > 0.5


def test_a_short_training_lowers_the_losses():
    from sana_core.sources import NANO_FILES
    from sana_core.text.load import load_text_encoder

    tokenizer = load_text_encoder(NANO_FILES.text_encoder).tokenizer
    latents = torch.randn(2, 1, 1, 32, 4, 4, generator=torch.Generator().manual_seed(0)).expand(2, 10, 2, 32, 4, 4)
    data = train_transformer.Captioned([APPLE, OWL], latents, tokenizer)
    data.source = CaptionSource([APPLE, OWL], SPLITS)
    batch = data.batch(4, random.Random(0))
    torch.manual_seed(0)
    model = train_transformer.TextToLatent(2)
    optimizers = train_transformer.build_optimizers(model, rate=0.02)
    losses = []
    for _ in range(10):
        found = model.losses(batch, torch.Generator().manual_seed(1))
        losses.append({name: loss.item() for name, loss in found.items()})
        sum(found.values()).backward()
        for each in optimizers:
            each.step()
            each.zero_grad()
    assert losses[0]["flow"] == pytest.approx(2.0, abs=0.3)  # variance of noise plus that of latents: the output begins at zero
    assert losses[-1]["flow"] < 0.9 * losses[0]["flow"]
    assert losses[-1]["concept"] < 0.5 * losses[0]["concept"]


def test_variants_are_told_apart():
    found = [train_transformer.variant(Caption(text="", concept=0, colour=colour)) for colour in captions.COLOURS]
    assert [*found, train_transformer.variant(Caption(text="", concept=0, small=True))] == list(range(10))
