"""Latents on disk."""

import logging

import pytest
import torch

from sana_core.errors import CheckpointError, InputError
from sana_core.training.data.example import DataSet, Example
from sana_core.training.data.latents import LatentCache
from sana_core.training.data.picture import Stored, measured
from sana_core.training.data.views import ConditionView

from .made import saved

SIZE = (64, 96)


class Encoder:
    """Counts what it encodes."""

    def __init__(self, factor=1.0):
        self.calls, self.factor = 0, factor

    def __call__(self, pixels):
        self.calls += 1
        assert pixels.shape[:2] == (1, 3) and pixels.min() >= -1 and pixels.max() <= 1
        means = torch.nn.functional.avg_pool2d(pixels, 32) * self.factor
        return means.mean(1, keepdim=True).repeat(1, 32, 1, 1)


def fill(cache, examples, encode, **options):
    return cache.fill(examples, [(row, SIZE) for row in range(len(examples))], encode, **options)


def test_latents_are_encoded_once(tmp_path):
    examples = [saved(tmp_path, "a.png", colour="white"), saved(tmp_path, "b.png", colour="black")]
    encode, seen = Encoder(), []
    cache = LatentCache(tmp_path / "cache", "encoder")
    assert fill(cache, examples, encode, progress=lambda *state: seen.append(state)) == {}
    assert seen == [(1, 2), (2, 2)] and encode.calls == 2
    again = LatentCache(tmp_path / "cache", "encoder")
    fill(again, examples, encode)
    assert encode.calls == 2
    torch.testing.assert_close(again.read(examples[0], SIZE), torch.ones(32, 3, 2))
    torch.testing.assert_close(again.read(examples[1], SIZE), -torch.ones(32, 3, 2))


def test_another_picture_size_or_encoder_is_encoded_anew(tmp_path):
    example, encode = saved(tmp_path, "a.png"), Encoder()
    cache = LatentCache(tmp_path / "cache", "encoder")
    fill(cache, [example], encode)
    fill(cache, [saved(tmp_path, "b.png", colour="blue")], encode)
    assert encode.calls == 2
    cache.fill([example], [(0, (64, 64))], encode)
    assert encode.calls == 3
    fill(LatentCache(tmp_path / "cache", "another"), [example], encode)
    assert encode.calls == 4


@pytest.mark.parametrize("damage", ["cut", "bit", "other", "empty"])
def test_a_damaged_file_is_not_read_but_made_again(tmp_path, damage):
    example, other, encode = saved(tmp_path, "a.png"), saved(tmp_path, "b.png", colour="blue"), Encoder()
    cache = LatentCache(tmp_path / "cache", "encoder")
    fill(cache, [example, other], encode)
    path, foreign = (cache.files.path(cache._key(one, SIZE)) for one in (example, other))
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:-8], "bit": flipped, "other": foreign.read_bytes(), "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="is damaged"):
        cache.read(example, SIZE)
    fill(cache, [example, other], encode)
    assert encode.calls == 3
    torch.testing.assert_close(cache.read(example, SIZE)[0, 0, 0].item(), -1 / 3)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="missing from the cache"):
        LatentCache(tmp_path / "cache", "encoder").read(saved(tmp_path, "a.png"), SIZE)


def test_a_stop_keeps_what_is_done(tmp_path):
    examples = [saved(tmp_path, f"{i}.png", colour=(i, 0, 0)) for i in range(4)]
    encode, cache = Encoder(), LatentCache(tmp_path / "cache", "encoder")

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(cache, examples, encode, progress=stop)
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 2
    fill(cache, examples, encode)
    assert encode.calls == 4


def test_pictures_that_fail_are_named_and_left_out(tmp_path, caplog):
    good, gone = saved(tmp_path, "a.png"), saved(tmp_path, "c.png", colour="blue")
    content = saved(tmp_path, "b.jpg", size=(300, 300)).picture.source.path.read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[:-200])
    bad = Example(name="b.jpg", captions=(("x", 1.0),), picture=measured(Stored(tmp_path / "b.jpg")))
    (tmp_path / "c.png").unlink()
    with caplog.at_level(logging.WARNING):
        failed = fill(LatentCache(tmp_path / "cache", "encoder"), [good, bad, gone], Encoder())
    assert set(failed) == {bad, gone}
    assert "cannot be decoded" in failed[bad] and "cannot be read" in failed[gone]
    assert "b.jpg is skipped" in caplog.text and "2 pictures are skipped" in caplog.text
    data = DataSet((good, bad, gone)).without(failed)
    assert data.examples == (good,) and [name for name, _ in data.skipped] == ["b.jpg", "c.png"]
    with pytest.raises(InputError, match=r"no picture that can be used: b\.jpg: its pixels"):
        DataSet((bad,)).without(failed)


def test_errors_of_the_encoder_are_not_failures_of_pictures(tmp_path):
    def encode(pixels):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fill(LatentCache(tmp_path / "cache", "encoder"), [saved(tmp_path, "a.png")], encode)


def test_latents_that_are_not_finite_are_not_kept(tmp_path):
    example = saved(tmp_path, "a.png")
    failed = fill(LatentCache(tmp_path / "cache", "encoder"), [example], Encoder(float("inf")))
    assert "not finite" in failed[example] and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_views_are_kept_apart(tmp_path):
    example, encode = saved(tmp_path, "a.png"), Encoder()
    fill(LatentCache(tmp_path / "cache", "encoder"), [example], encode)
    for lines in (None, "soft", "thin"):
        condition = saved(tmp_path, "c.png", colour="white").picture
        with_condition = saved(tmp_path, "a.png", condition=condition)
        fill(LatentCache(tmp_path / "cache", "encoder", ConditionView(lines)), [with_condition], encode)
    assert encode.calls == 4


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        LatentCache(tmp_path / "file/cache", "encoder")
