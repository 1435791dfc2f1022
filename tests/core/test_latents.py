"""Sizes, noise and trained resolutions."""

import pytest
import torch

from sana_core.errors import InputError
from sana_core.latents import RESOLUTION_BINS, closest_bin, latent_size, noise


def test_latent_size():
    assert latent_size(1024, 1024) == (32, 32)
    assert latent_size(320, 256) == (8, 10)


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (1000, 512, "width of 1000 x 512 .* 992 or 1024 wide and 512 high"),
        (512, 33, "height of 512 x 33 .* 512 wide and 32 or 64 high"),
        (0, 512, "width of 0 x 512 .* 32 wide"),
        (-64, -64, "width and height of -64 x -64 .* 32 wide and 32 high"),
        (31, 32, "width of 31 x 32 .* 32 wide"),
    ],
)
def test_sizes_that_are_not_valid_name_the_nearest(width, height, said):
    with pytest.raises(InputError, match=said):
        latent_size(width, height)


def test_noise_is_one_draw_of_the_whole_batch():
    expected = torch.randn(3, 32, 2, 5, generator=torch.manual_seed(7), device="cpu")  # how ComfyUI draws it
    assert torch.equal(noise((3, 32, 2, 5), 7), expected)
    assert noise((1, 32, 2, 2), 7).dtype == torch.float32


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    noise((1, 32, 4, 4), 99)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 - 1, -(2**63)])
def test_every_seed_of_64_bits_draws(seed):
    assert not torch.equal(noise((1, 32, 2, 2), seed), noise((1, 32, 2, 2), seed ^ 1))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_out_of_range(seed):
    with pytest.raises(InputError, match="seed"):
        noise((1, 32, 2, 2), seed)


@pytest.mark.parametrize(("native", "count"), [(512, 33), (1024, 33), (2048, 40), (4096, 40)])
def test_bins(native, count):
    bins = RESOLUTION_BINS[native]
    assert len(bins) == count and list(bins) == sorted(bins) and bins[1.0] == (native, native)
    for ratio, (height, width) in bins.items():
        assert height % 32 == width % 32 == 0
        assert abs(height / width - ratio) < 0.025
        assert 0.75 * native**2 < height * width < 1.15 * native**2


@pytest.mark.parametrize(
    ("height", "width", "native", "expected"),
    [
        (512, 512, 1024, (1024, 1024)),
        (720, 1280, 512, (384, 672)),
        (1080, 1920, 1024, (768, 1344)),
        (333, 1000, 2048, (1152, 3456)),
        (1000, 333, 4096, (6912, 2304)),
        (4096, 2048, 512, (704, 352)),
        (100, 9999, 1024, (512, 2048)),
        (260, 1000, 2048, (1024, 3968)),
    ],
)
def test_closest_bin(height, width, native, expected):
    assert closest_bin(height, width, native) == expected


@pytest.mark.parametrize("arguments", [(512, 512, 768), (0, 512, 1024), (512, -1, 1024)])
def test_bins_that_are_not_there(arguments):
    with pytest.raises(InputError):
        closest_bin(*arguments)
