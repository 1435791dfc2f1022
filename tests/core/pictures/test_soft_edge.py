"""Soft edges of pictures whose answer is known."""

import logging

import pytest
import torch

from sana_core.errors import InputError
from sana_core.pictures.soft_edge import LINE_WEIGHTS, soft_edge

SIZE, AT = 64, 30


def soft_line(sigma=3.0):
    """A vertical line at column AT with a Gaussian profile, a little fainter at the bottom.

    A pixel is a ridge if it is no darker than its two neighbours in any direction: were all rows alike, all of the line
    would be.
    """
    profile = torch.exp(-0.5 * ((torch.arange(SIZE) - AT) / sigma) ** 2)
    return (torch.linspace(1.0, 0.8, SIZE)[:, None] * profile)[None, None]


def thin_line():
    edges = torch.zeros(1, 1, SIZE, SIZE)
    edges[..., AT] = 1.0
    return edges


def columns(lines):
    """First and last white column, after checking that there is nothing but 0 and 1 and that all rows far from the
    borders are alike.
    """
    assert ((lines == 0) | (lines == 1)).all()
    lines = lines[..., 20:-20, :]
    assert torch.equal(lines, lines[..., :1, :1, :].expand_as(lines))
    (white,) = torch.where(lines[0, 0, 0] == 1)
    assert len(white) == white[-1] - white[0] + 1
    return int(white[0]) - AT, int(white[-1]) - AT


@pytest.mark.parametrize("thickness, expected", [
    (0, (-3, 4)), (1, (-5, 5)), (2, (-5, 5)), (3, (-5, 5)), (4, (-5, 6)), (6, (-6, 6)), (24, (-10, 11)),
])  # fmt: skip
def test_a_line_gets_one_width_however_soft_it_was(thickness, expected):
    for edges in (soft_line(), soft_line(5.0), soft_line() * 0.9):
        assert columns(soft_edge(edges, thickness=thickness)) == expected
    assert columns(soft_edge(thin_line(), thickness=thickness, thin=True)) == expected


def test_the_width_is_where_the_blur_falls_to_the_threshold():
    """255 times the weight at distance 5 is above 4, at distance 6 it is not."""
    assert sum(LINE_WEIGHTS) == 256
    assert [round(255 * weight / 256) > 4 for weight in LINE_WEIGHTS[8:15]] == [True] * 6 + [False]


def test_thin_lines_are_no_soft_edges(caplog):
    with caplog.at_level(logging.WARNING, logger="sana"):
        assert not soft_edge(thin_line()).any()
    assert 'choose "thin"' in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sana"):
        assert not soft_edge(torch.zeros(1, 3, SIZE, SIZE)).any()
    assert not caplog.records


def test_faint_edges_vanish():
    assert not soft_edge(soft_line() * 0.6).any()  # blurred, its crest is 108 of 255


def test_directions_are_alike():
    edges = soft_line() * 0.95
    assert torch.equal(soft_edge(edges.transpose(-1, -2)), soft_edge(edges).transpose(-1, -2))
    rows, cols = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    distance = (rows - cols).abs() / 2**0.5
    edges = torch.exp(-0.5 * (distance / 3.0) ** 2) * (1.0 - 0.1 * (rows + cols) / SIZE)
    lines = soft_edge(edges[None, None])[0, 0].bool()
    inside = slice(16, -16)
    assert lines[inside, inside][distance[inside, inside] < 4].all()
    assert not lines[inside, inside][distance[inside, inside] > 8].any()


def test_straight_lines_of_one_brightness_are_not_thinned():
    """The quirk of the released code: of such a line all stays that is bright after the blur, columns -3 to 3 here."""
    flat = soft_line()[..., :1, :].expand(1, 1, SIZE, SIZE)
    blurred = 255 * 0.5**0.5 * torch.exp(torch.tensor([3.0, 4.0]) ** 2 / -36.0)
    assert blurred[0] > 127 > blurred[1]
    assert columns(soft_edge(flat)) == (-3 - 6, 3 + 6)


def test_areas_stay_filled():
    edges = torch.zeros(1, 1, SIZE, SIZE)
    edges[..., 10:50] = 1.0
    first, last = columns(soft_edge(edges))
    assert (
        sum(LINE_WEIGHTS[:3]) == 8 > 4 / 255 * 256 >= sum(LINE_WEIGHTS[:2])
    )  # so the blurred area ends 6 pixels outside
    assert (first + AT, last + AT) == (4, 55)


def test_a_batch_is_its_pictures_and_the_result_is_rgb():
    edges = torch.cat([soft_line(), thin_line()]).repeat(1, 3, 1, 1)
    lines = soft_edge(edges)
    assert lines.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(lines[:, 0], lines[:, 1]) and torch.equal(lines[:, 0], lines[:, 2])
    assert torch.equal(lines[:1], soft_edge(soft_line())) and not lines[1].any()


def test_bytes_are_pixels():
    edges = (soft_line() * 255).round().byte()
    assert torch.equal(soft_edge(edges), soft_edge(edges.float() / 255.0))


def test_no_float64_is_made_on_the_device_of_the_edges():
    """Apple's and some of Intel's GPUs have none: all of it runs on the CPU, and the result goes back."""
    found = soft_edge(soft_line().to(torch.float16))
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    moves = []

    class Elsewhere(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, arguments=(), keywords=None):
            moves.append(function.__name__)
            return super().__torch_function__(function, types, arguments, keywords or {})

        def cpu(self, *arguments):
            return super().cpu(*arguments).as_subclass(torch.Tensor)

    assert torch.equal(soft_edge(soft_line().as_subclass(Elsewhere)), soft_edge(soft_line()))
    assert not {"double", "conv2d", "pad"} & set(moves) and "cpu" in moves


def test_wrong_inputs():
    for wrong in (None, [soft_line()], "edges.png"):
        with pytest.raises(InputError, match="an edge map is a tensor"):
            soft_edge(wrong)
    with pytest.raises(InputError, match="0 to 24, got 25"):
        soft_edge(soft_line(), thickness=25)
    with pytest.raises(InputError, match=r"\(1, 1, 8, 64\)"):
        soft_edge(torch.zeros(1, 1, 8, 64))
