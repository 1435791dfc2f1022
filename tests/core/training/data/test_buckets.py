"""The size that each picture is trained at."""

import pytest
import torch
from PIL import Image

from sana_core.errors import InputError
from sana_core.latents import RESOLUTION_BINS
from sana_core.training.data.buckets import fitted, is_enlarged, trained_size, trained_sizes

from .made import data_of


@pytest.mark.parametrize("native", RESOLUTION_BINS)
def test_the_trained_size_of_the_nearest_ratio(native):
    assert trained_size(3000, 3000, native) == (native, native)
    for height, width in RESOLUTION_BINS[native].values():
        wide, high = trained_size(width, height, native)
        assert abs(high / wide - height / width) < 0.01
    assert trained_size(10_000, 100, native) == (2 * native, native // 2)


def test_sizes_of_the_same_area_for_other_classes():
    assert trained_size(100, 100, 256) == (256, 256)
    assert trained_size(200, 100, 256) == (352, 192)
    assert trained_size(100, 200, 256) == (192, 352)
    assert trained_size(100_000, 1, 256) == (512, 128)


def test_a_fixed_square():
    assert trained_size(200, 100, 256, square=True) == (256, 256)
    assert trained_size(200, 100, 1024, square=True) == (1024, 1024)


@pytest.mark.parametrize("width, height, native", [(0, 4, 1024), (4, 4, 100), (4, 0, 256)])
def test_impossible_sizes(width, height, native):
    with pytest.raises(InputError):
        trained_size(width, height, native)


def test_sizes_of_a_data_set():
    assert trained_sizes(data_of((64, 64), (64, 128)).examples, 256) == ((256, 256), (192, 352))


def test_which_pictures_are_enlarged():
    small, large = data_of((255, 900), (256, 256)).examples
    assert is_enlarged(small, (256, 256)) and not is_enlarged(large, (256, 256))


def test_a_picture_covers_its_size_and_is_cropped_at_the_centre():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (100, 0, 200, 100))
    pixels = fitted(picture, (64, 64))
    assert pixels.shape == (1, 3, 64, 64)
    torch.testing.assert_close(pixels, torch.full_like(pixels, -1.0), atol=0.1, rtol=0)
