"""Pictures of every kind that Pillow has, arrays and tensors, as the pixels that they show."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sana_core.errors import InputError
from sana_core.pictures.control import control_picture
from sana_core.pictures.images import fitted_mask, fitted_picture, picture_tensor
from sana_core.pictures.modes import grey, rgb

SIZE = (64, 32)
EVERY = ("1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F")


@pytest.mark.parametrize("mode", EVERY)
def test_every_mode_becomes_rgb_and_grey(mode):
    picture = Image.new(mode, SIZE)
    assert rgb(picture).mode == "RGB" and grey(picture).mode == "L"
    assert fitted_picture(picture, *SIZE).shape == control_picture(picture, *SIZE).shape == (1, 3, 32, 64)
    assert fitted_mask(picture, *SIZE).shape == (1, 1, 32, 64)


def test_an_open_file_that_is_cut(tmp_path):
    """Pillow reads the pixels only when they are asked for."""
    Image.effect_noise(SIZE, 50).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(InputError, match="cannot be converted"):
        rgb(picture)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_what_is_transparent_is_whole_in_a_picture_and_black_in_a_mask(mode):
    """The transparent pixels hold a middle grey."""
    picture = Image.new("L", SIZE, 128).convert("P" if mode in ("P", "PA") else "RGB" if "RGB" in mode else "L")
    if mode in ("RGBA", "LA", "PA"):
        picture.putalpha(0)
        assert picture.mode == {"PA": "PA"}.get(mode, mode)
    else:
        colour = picture.getpixel((0, 0))
        picture.info["transparency"] = colour
    assert rgb(picture).getextrema() == ((128, 128),) * 3
    assert grey(picture).getextrema() == (0, 0)  # a mask redraws nothing there
    assert control_picture(picture, *SIZE).max().item() == pytest.approx(128 / 255)


def test_half_transparent_is_half_in_a_mask():
    picture = Image.new("RGBA", SIZE, (255, 255, 255, 128))
    assert rgb(picture).getpixel((0, 0)) == (255, 255, 255) and grey(picture).getpixel((0, 0)) == 128


@pytest.mark.parametrize(("low", "high"), [(0.25, 1.0), (63.75, 255.0), (16383.75, 65535.0)])
def test_floating_point_pictures_by_their_range(tmp_path, low, high):
    values = np.full((32, 64), low, np.float32)
    values[:, 32:] = high
    Image.fromarray(values).save(tmp_path / "f.tiff")
    with Image.open(tmp_path / "f.tiff") as picture:
        assert picture.mode == "F"
        found = fitted_picture(picture, *SIZE)[0, 0, 0]
    assert found[0].item() == pytest.approx(0.25, abs=1 / 255) and found[-1] == 1.0
    assert fitted_mask(tmp_path / "f.tiff", *SIZE)[0, 0, 0, -1] == 1.0


def test_numbers_that_are_none_are_black():
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32).repeat(4, axis=0)
    assert np.asarray(grey(Image.fromarray(values)))[0].tolist() == [0, 0, 0, 255]


def test_sixteen_bits_big_endian(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 64), 0x8000, np.uint16)).save(buffer, "PNG")
    with Image.open(buffer) as picture:
        assert grey(picture).getextrema() == (128, 128)
    big = Image.frombytes("I;16B", SIZE, b"\x80\x00" * 64 * 32)
    assert grey(big).getextrema() == (128, 128)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_uint8_arrays_are_pictures(channels):
    shape = (40, 70) if channels is None else (40, 70, channels)
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if channels == 4:
        array[..., 3] = 255
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    assert torch.equal(picture_tensor(array, *SIZE), picture_tensor(picture, *SIZE))  # resized, too
    assert torch.equal(control_picture(array, *SIZE), control_picture(picture, *SIZE))
    assert torch.equal(fitted_mask(array, *SIZE), fitted_mask(picture, *SIZE))


def test_tensors_of_every_number_type():
    pixels = torch.randint(0, 256, (3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = pixels.float() / 255.0
    assert torch.equal(fitted_picture(pixels, *SIZE)[0], expected)
    assert torch.equal(control_picture(pixels, *SIZE), control_picture(expected, *SIZE))
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        found = fitted_picture(expected.to(dtype), *SIZE)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[0], expected, atol=tolerance, rtol=0)
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[..., :32] = True
    assert torch.equal(fitted_mask(mask, *SIZE)[0], mask.float())
    assert torch.equal(fitted_mask(mask.byte() * 255, *SIZE)[0], mask.float())
    assert fitted_picture(expected.requires_grad_(), *SIZE).requires_grad is False


def test_a_little_beyond_the_range_is_as_before():
    sharp = torch.rand(1, 3, 32, 64) * 1.2 - 0.1
    assert torch.equal(fitted_picture(sharp, *SIZE), sharp)


def test_defaults_of_pytorch_change_nothing():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8))
    functions = (picture_tensor, control_picture, fitted_mask)
    expected = [function(picture, *SIZE) for function in functions]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = [function(picture, *SIZE) for function in functions]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert all(torch.equal(*pair) for pair in zip(found, expected))
