"""Drawings placed, scenes drawn, edges, and retrieval on pictures whose answer is known."""

import pytest
import torch

from tools.nano.concepts import palette
from tools.nano.evaluate_addons import line_overlap
from tools.nano.pictures import edge_map, place
from tools.nano.retrieval import backgrounds_right
from tools.nano.scenes import Scene

STILL = (torch.ones(1), torch.zeros(1, 2), torch.tensor([False]))


def test_mirroring_and_moving():
    drawing = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    one, none, still = STILL
    torch.testing.assert_close(place(drawing, one, none, still, 64), drawing, atol=1e-4, rtol=0)
    torch.testing.assert_close(place(drawing, one, none, ~still, 64), drawing.flip(-1), atol=1e-4, rtol=0)
    moved = place(drawing, one, torch.tensor([[0.25, 0.0]]), still, 64)
    torch.testing.assert_close(moved[..., 8:], drawing[..., :-8], atol=1e-4, rtol=0)
    assert moved[..., :8].abs().max() < 1e-4
    lowered = place(drawing, one, torch.tensor([[0.0, 0.25]]), ~still, 64)
    torch.testing.assert_close(lowered[..., 8:, :], drawing.flip(-1)[..., :-8, :], atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixels", [64, 128])
def test_a_small_drawing_stands_in_the_middle(pixels):
    placed = place(torch.ones(1, 4, 128, 128), torch.tensor([0.5]), *STILL[1:], pixels)
    quarter = pixels // 4
    assert placed[0, 3, quarter + 2 : -quarter - 2, quarter + 2 : -quarter - 2].min() > 0.99
    assert placed[0, 3, : quarter - 2].max() == placed[0, 3, -quarter + 2 :].max() == 0


def test_shrinking_averages_instead_of_skipping():
    stripes = torch.ones(1, 4, 128, 128)
    stripes[..., ::2] = 0
    assert (place(stripes, torch.tensor([0.5]), *STILL[1:], 64)[0, :, 24:40, 24:40] - 0.5).abs().max() < 1e-3


def test_edges_are_where_the_picture_changes():
    image = torch.ones(1, 3, 64, 64)
    image[..., 16:48, 16:48] = -1
    lines = edge_map(image)
    assert set(lines.unique().tolist()) == {-1.0, 1.0}
    assert (lines[0, 0, 32, 14:18] > 0).any() and (lines[0, 0, 32, 24:40] < 0).all() and (lines[0, 0, :8] < 0).all()
    assert (edge_map(torch.zeros(1, 3, 64, 64)) < 0).all()
    for width in (1, 3, 7):  # one line along the left side, without gaps
        crossed = (edge_map(image, width)[0, 0, 20:44, :24] > 0).sum(dim=1)
        assert crossed.unique().numel() == 1 and width <= crossed[0] <= width + 2


def test_overlap_of_lines():
    image = torch.ones(1, 3, 64, 64)
    image[..., 16:48, 16:48] = -1
    lines = edge_map(image)
    assert line_overlap(lines, lines) == pytest.approx(1.0)
    assert line_overlap(lines.roll(1, -1), lines) > 0.9
    assert line_overlap(lines.roll(12, -1), lines) < 0.75
    assert line_overlap(-torch.ones_like(lines), lines) == 0


def test_backgrounds_are_read_off_the_corners():
    rgb = {name: torch.tensor(colour["rgb"]) / 127.5 - 1 for name, colour in palette().items()}
    images = torch.stack([colour[:, None, None].expand(3, 64, 64) for colour in rgb.values()]).clone()
    images[..., 10:54, 10:54] = 0.3  # the thing
    assert backgrounds_right(images, [Scene(concept=0, colour=name) for name in rgb]).all()
    assert not backgrounds_right(images.roll(1, 0), [Scene(concept=0, colour=name) for name in rgb]).any()
