"""Pictures, masks and PNG metadata."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sana_core.errors import InputError
from sana_core.pictures.control import control_picture
from sana_core.pictures.files import save_png
from sana_core.pictures.images import mask_latents, picture_tensor, to_pil

RECORD = {
    "prompt": "a caf\u00e9 \u732b", "negative_prompt": "blurry", "steps": 20, "sampler": "flow_dpm",
    "guidance_scale": 4.5, "seed": 3, "width": 64, "height": 32, "shift": 3.0, "model": "nano",
    "batch_size": 2, "batch_index": 1,
}  # fmt: skip


def test_picture_and_back():
    pixels = torch.randint(0, 256, (3, 32, 64), generator=torch.Generator().manual_seed(0))
    picture = to_pil(pixels[None] / 255.0)[0]
    tensor = picture_tensor(picture, 64, 32)
    assert picture.size == (64, 32) and tensor.shape == (1, 3, 32, 64) and tensor.dtype == torch.float32
    assert torch.equal((tensor[0] / 2 + 0.5).mul(255).round().long(), pixels)
    torch.testing.assert_close(picture_tensor(pixels / 255.0, 64, 32), tensor)


def test_values_between_are_rounded():
    assert to_pil(torch.tensor([[0.4, 0.6]]).div(255).expand(1, 3, 1, 2))[0].tobytes() == bytes([0, 0, 0, 1, 1, 1])


def test_pil_pictures_fill_the_size_without_distortion():
    picture = Image.new("RGB", (300, 100))
    picture.paste((255, 255, 255), (150, 0, 300, 100))
    tensor = picture_tensor(picture, 64, 64)
    assert tensor.shape == (1, 3, 64, 64)
    assert (tensor[..., :28] < -0.9).all() and (
        tensor[..., 36:] > 0.9
    ).all()  # the middle third, its edge still in the middle


def test_grey_and_palette_pictures_become_rgb():
    for mode in ("L", "P", "RGBA", "1"):
        assert picture_tensor(Image.new(mode, (32, 32)), 32, 32).shape == (1, 3, 32, 32)


def test_16_bits_of_grey_are_scaled_not_cut_off():
    deep = Image.fromarray(np.repeat([[300, 40000]], 32, axis=0).repeat(32, axis=1).astype(np.uint16))
    found = picture_tensor(deep, 64, 32)[0, 0, 0] / 2 + 0.5
    assert found[0].item() == pytest.approx(300 / 65535, abs=1 / 255) and found[-1].item() == pytest.approx(
        40000 / 65535, abs=1 / 255
    )
    assert mask_latents(deep, 64, 32).tolist() == [[[[0, 1]]]]
    torch.testing.assert_close(control_picture(deep, 64, 32) * 2 - 1, picture_tensor(deep, 64, 32))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 64, 32), (4, 32, 64), (32, 64), (1, 1, 3, 32, 64)])
def test_tensor_of_another_shape(shape):
    with pytest.raises(InputError, match="picture"):
        picture_tensor(torch.zeros(shape), 64, 32)


def test_one_bright_pixel_redraws_its_cell():
    mask = torch.zeros(1, 64, 96)
    mask[0, 40, 95] = 1.0
    mask[0, 5, 5] = 0.4
    assert mask_latents(mask, 96, 64).tolist() == [[[[0, 0, 0], [0, 0, 1]]]]
    picture = Image.new("L", (96, 64))
    picture.putpixel((95, 40), 255)
    assert mask_latents(picture, 96, 64).tolist() == [[[[0, 0, 0], [0, 0, 1]]]]
    with pytest.raises(InputError, match="mask"):
        mask_latents(torch.zeros(3, 64, 96), 96, 64)


def test_png_remembers_how_it_was_made(tmp_path):
    save_png(Image.new("RGB", (64, 32)), tmp_path / "a.png", RECORD)
    with Image.open(tmp_path / "a.png") as picture:
        texts = picture.info
    assert json.loads(texts["sana"]) == RECORD
    assert texts["parameters"] == (
        "a caf\u00e9 \u732b\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: flow_dpm, CFG scale: 4.5, Seed: 3, Size: 64x32, Model: nano, Shift: 3.0, Batch index: 1"
    )
