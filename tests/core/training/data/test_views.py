"""What the autoencoder sees of an example."""

import pytest
import torch
from PIL import Image, ImageDraw

from sana_core.pictures.soft_edge import soft_edge
from sana_core.training.data.buckets import fitted
from sana_core.training.data.views import ConditionView, PictureView, edge_map

from .made import saved

SIZE = (128, 96)


def square():
    picture = Image.new("RGB", (128, 96), "white")
    picture.paste("navy", (40, 30, 90, 70))
    return picture


def test_the_picture_itself(tmp_path):
    example = saved(tmp_path, "a.png", colour=square())
    assert torch.equal(PictureView().pixels(example, SIZE), fitted(square(), SIZE))


def test_a_condition_picture_is_fitted_as_its_picture(tmp_path):
    condition = saved(tmp_path, "c.png", colour=square().resize((256, 192))).picture
    pixels = ConditionView().pixels(saved(tmp_path, "a.png", condition=condition), SIZE)
    assert pixels.shape == (1, 3, 96, 128)
    torch.testing.assert_close(pixels[..., 50, 64], torch.tensor([[-1.0, -1.0, 0.0]]), atol=0.02, rtol=0)


def test_lines_of_a_condition_picture(tmp_path):
    drawn = Image.new("RGB", SIZE)
    ImageDraw.Draw(drawn).line((0, 48, 128, 48), "white", 1)
    condition = saved(tmp_path, "c.png", colour=drawn).picture
    example = saved(tmp_path, "a.png", condition=condition)
    expected = soft_edge((fitted(drawn, SIZE) + 1) / 2, thin=True) * 2 - 1
    found = ConditionView("thin").pixels(example, SIZE)
    assert torch.equal(found, expected) and set(found.unique().tolist()) == {-1.0, 1.0}


def test_edges_of_a_picture_without_a_condition_picture(tmp_path):
    found = ConditionView("soft").pixels(saved(tmp_path, "a.png", colour=square()), SIZE)[0, 0]
    assert found.shape == (96, 128) and set(found.unique().tolist()) == {-1.0, 1.0}
    for y, x in ((50, 40), (50, 90), (30, 64), (70, 64)):  # on the outline
        assert found[y, x] == 1.0
    for y, x in ((50, 65), (10, 10), (50, 20), (85, 100)):  # inside, outside
        assert found[y, x] == -1.0


def test_a_plain_picture_has_no_edges():
    assert edge_map(fitted(Image.new("RGB", SIZE, "red"), SIZE)).max() == 0.0


def test_digests_are_of_what_is_seen(tmp_path):
    condition = saved(tmp_path, "c.png", colour="blue").picture
    plain, followed = saved(tmp_path, "a.png"), saved(tmp_path, "a.png", condition=condition)
    view = ConditionView()
    assert view.digest(followed) == condition.digest and plain.digest in view.digest(plain)
    assert view.digest(plain) != PictureView().digest(plain)


@pytest.mark.parametrize("lines", [None, "soft", "thin"])
def test_names_differ(lines):
    others = {ConditionView(other).name for other in (None, "soft", "thin") if other != lines}
    assert ConditionView(lines).name not in others | {PictureView().name}
