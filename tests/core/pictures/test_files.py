"""Picture files: turned upright, refused in one line, saved with their record."""

import logging

import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.pictures.files import open_picture


def save(path, exif=None):
    picture = Image.new("RGB", (64, 32), "red")
    picture.putpixel((0, 0), (0, 0, 255))
    picture.save(path, lossless=True, **({"exif": exif} if exif else {}))
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_pictures_are_turned_as_their_camera_says(tmp_path, suffix):
    upright = open_picture(save(tmp_path / f"a{suffix}", exif_of(6)))
    assert upright.size == (32, 64) and upright.getpixel((31, 0)) == (0, 0, 255)


UNREADABLE = [
    b"b'Exif\\x00\\x00MM",
    b"Exif\0\0not tiff",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
]


@pytest.mark.parametrize("exif", UNREADABLE, ids=repr)
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_unreadable_exif_costs_the_turning(tmp_path, caplog, suffix, exif):
    with caplog.at_level(logging.WARNING, logger="sana"):
        picture = open_picture(save(tmp_path / f"a{suffix}", exif))
    assert picture.size == (64, 32) and picture.getpixel((0, 0)) == (0, 0, 255)
    assert len(caplog.records) <= 1 and all("so the picture is not turned" in line.message for line in caplog.records)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".gif", ".tiff", ".bmp"])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix):
    """Cut or flipped anywhere, a file is either a picture or an InputError."""
    path = tmp_path / f"a{suffix}"
    Image.effect_noise((64, 32), 50).convert("RGB").save(path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), max(len(content) // 40, 1)):
        for damaged in (content[:place], content[:place] + b"\xff\x00\xff\x00" + content[place + 4 :]):
            path.write_bytes(damaged)
            try:
                open_picture(path)
            except InputError as error:
                refused += 1
                assert "a" + suffix in str(error)
    assert refused > 10


def test_decompression_bombs(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb\.png is too large a picture"):
        open_picture(path)


@pytest.mark.parametrize("name", ["none.png", "", "\0"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(InputError, match="is not a picture that can be read"):
        open_picture(tmp_path / name)
