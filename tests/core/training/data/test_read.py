"""Data sets of every form, and what is left out of them."""

import io
import json
import logging
import zlib

import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.training.data.picture import measured
from sana_core.training.data.read import read_data


def picture(path, size=(40, 24), colour="red", kind=None, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, kind, **options)
    return path


def encoded(size=(40, 24), colour="red", kind="PNG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **options)
    return out.getvalue()


def texts(example):
    return [text for text, _ in example.captions]


def only(path, **options):
    (example,) = read_data(path, **options).examples
    return example


def why(path, **options):
    """Why the one picture beside a good one is left out."""
    picture(path / "zz good.png")
    (path / "zz good.txt").write_text("good")
    ((_, reason),) = read_data(path, **options).skipped
    return reason


def test_pictures_with_captions_beside_them_in_nested_folders(tmp_path):
    for name, caption in (("b.png", "a bee"), ("A.JPG", "an apple"), ("in/deep/c.webp", "a cat")):
        path = picture(tmp_path / name, kind={"G": "JPEG", "p": "WEBP", "g": "PNG"}[name[-1]])
        path.with_suffix(".txt").write_text(caption + "\n")
    data = read_data(tmp_path)
    assert [example.name for example in data.examples] == ["A.JPG", "b.png", "in/deep/c.webp"]
    assert [texts(example) for example in data.examples] == [["an apple"], ["a bee"], ["a cat"]]
    assert data.skipped == ()
    example = data.examples[1]
    assert (example.width, example.height) == (40, 24)
    assert example.load().getpixel((0, 0)) == (255, 0, 0)


def test_hidden_and_foreign_files_are_ignored(tmp_path):
    for name in ("._a.png", ".hidden/b.png", "__MACOSX/c.png", ".DS_Store.png", "d.PNG"):
        picture(tmp_path / name, kind="PNG")
    (tmp_path / "notes.md").write_text("x")
    data = read_data(tmp_path, caption="x")
    assert [example.name for example in data.examples] == ["d.PNG"] and data.skipped == ()


def test_links_inside_a_folder_are_followed_and_loops_end(tmp_path):
    picture(tmp_path / "elsewhere/a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b.png").symlink_to(tmp_path / "elsewhere/a.png")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/itself").symlink_to(tmp_path / "data/itself")
    (tmp_path / "data/dangling.png").symlink_to(tmp_path / "nowhere")
    assert [example.name for example in read_data(tmp_path / "data", caption="x").examples] == ["b.png", "link/a.png"]


@pytest.mark.parametrize(
    "content, captions",
    [
        ("one", [("one", 1)]),
        ("\ufeff one \r\n\r\n two\n", [("one", 1), ("two", 1)]),
        ("a cat\na cat\n", [("a cat", 1)]),
    ],
)
def test_text_captions(tmp_path, content, captions):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content.encode())
    assert list(only(tmp_path).captions) == captions


@pytest.mark.parametrize(
    "value, captions",
    [
        ("a cat", [("a cat", 1)]),
        (["a cat", "a dog"], [("a cat", 1), ("a dog", 1)]),
        ({"caption": "a cat", "width": 3, "url": "x"}, [("a cat", 1)]),
        ({"prompt": "a cat", "text": "a dog"}, [("a cat", 1), ("a dog", 1)]),
        ({"captions": ["a", "b"]}, [("a", 1), ("b", 1)]),
        ({"captions": {"short": "a", "long": "b"}}, [("a", 1), ("b", 1)]),
        ({"captions": ["a", "b", "c"], "weights": [3, 0, 1]}, [("a", 3), ("c", 1)]),
        ({"captions": {"short": "a", "long": "b"}, "weights": {"long": "0.5", "short": 2}}, [("b", 0.5), ("a", 2)]),
        ({"prompt": None, "caption": "a"}, [("a", 1)]),
    ],
)
def test_json_captions(tmp_path, value, captions):
    picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert sorted(only(tmp_path).captions) == sorted(captions)


def test_captions_and_scores_of_upstream(tmp_path):
    picture(tmp_path / "a_b.png")
    (tmp_path / "a_b.txt").write_text("plain")
    (tmp_path / "a_b_VLM.json").write_text(json.dumps({"a_b": {"VLM": "by a model", "other": "unscored"}}))
    assert texts(only(tmp_path)) == ["plain", "by a model", "unscored"]
    (tmp_path / "a_b.json").write_text(json.dumps({"a_b": {"third": "in its own file"}}))
    assert texts(only(tmp_path)) == ["plain", "in its own file", "by a model", "unscored"]
    (tmp_path / "a_b_VLM_clip_score.json").write_text(json.dumps({"a_b": {"VLM": "27.5"}}))
    (tmp_path / "a_b_prompt_clip_score.json").write_text(json.dumps({"a_b": {"prompt": 25, "nobody": 3}}))
    assert sorted(only(tmp_path).captions) == [("by a model", 27.5), ("plain", 25.0)]


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("a.txt", b"\xff\xfea", "not UTF-8"),
        ("a.json", b"{", "JSON cannot be read"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'{"caption": 5}', "a number, expected a text"),
        ("a.json", b'{"captions": ["x", {}]}', "an object, expected a text"),
        ("a.json", b'{"captions": ["x"], "weights": [1, 2]}', "do not fit"),
        ("a.json", b'{"captions": ["x"], "weights": ["nan"]}', "finite number"),
        ("a.json", b'{"captions": ["x"], "weights": [0]}', "none of its captions has a weight above 0"),
        ("a.json", b'"\\ud800"', "not valid Unicode"),
        ("a.json", b'{"width": 3}', "no caption"),
        ("a.txt", b" \n ", "no caption"),
        ("a_more.json", b"x", "JSON cannot be read"),
        ("a_clip_score.json", b'{"a": [1]}', "its scores are a list"),
    ],
)
def test_captions_that_cannot_be_used(tmp_path, name, content, reason):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    assert reason in why(tmp_path)


def test_the_caption_of_all_is_for_those_without_their_own(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("its own")
    assert [texts(example) for example in read_data(tmp_path, caption="for all").examples] == [["for all"], ["its own"]]


def resized(width, height):
    """A PNG that says it has another size."""
    content = encoded()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"no picture", "no PNG, JPEG or WebP"),
        (b"", "no PNG, JPEG or WebP"),
        (encoded()[:20], "no PNG, JPEG or WebP"),
        (resized(0, 5), "no PNG, JPEG or WebP"),
        (encoded(kind="GIF"), "no PNG, JPEG or WebP"),
        (resized(30_000, 30_000), "too many pixels"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    assert reason in why(tmp_path, caption="x")


def test_other_kinds_of_files_are_named(tmp_path):
    picture(tmp_path / "a.bmp")
    assert "save it as PNG" in why(tmp_path)
    (tmp_path / "a.bmp").unlink()
    (tmp_path / "x.tar.gz").write_bytes(b"")
    assert "unpack it" in why(tmp_path)


def test_what_is_left_out_is_named_and_counted_in_the_log(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING), pytest.raises(InputError) as why_not:
        read_data(tmp_path, caption="x")
    assert "a.png: it is no PNG" in str(why_not.value) and "b.png" in str(why_not.value)
    assert "a.png is skipped: it is no PNG" in caplog.text and "2 pictures are skipped" in caplog.text


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="has no pictures: expected PNG"):
        read_data(tmp_path)
    with pytest.raises(InputError, match="is missing"):
        read_data(tmp_path / "nowhere")
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="is no data set"):
        read_data(tmp_path / "x")


def test_sizes_are_upright_and_pictures_too(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.webp", "WEBP")):
        picture(tmp_path / name, kind=kind, exif=turned)
        example = measured(read_data(tmp_path, caption="x").examples[-1].picture.source)
        assert (example.width, example.height) == (24, 40)
        assert example.load().size == (24, 40)


def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path):
    from PIL import ImageOps

    drawn = Image.linear_gradient("L").crop((0, 0, 60, 40)).convert("RGB")
    drawn.paste("red", (0, 0, 10, 20))
    for number in range(1, 9):
        turned = Image.Exif()
        turned[0x0112] = number
        drawn.save(tmp_path / "a.png", exif=turned)
        with Image.open(tmp_path / "a.png") as expected:
            assert only(tmp_path, caption="x").load().tobytes() == ImageOps.exif_transpose(expected).tobytes()


@pytest.mark.parametrize("mode, colour", [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0)), ("P", 0)])
def test_what_is_transparent_is_white(tmp_path, mode, colour):
    picture(tmp_path / "a.png", mode=mode, colour=colour, **({"transparency": 0} if mode == "P" else {}))
    assert only(tmp_path, caption="x").load().getpixel((1, 1)) == (255, 255, 255)


def test_a_picture_that_changes_after_it_was_read_is_not_taken_for_it(tmp_path):
    picture(tmp_path / "a.png")
    example = only(tmp_path, caption="x")
    picture(tmp_path / "a.png", colour="blue")
    with pytest.raises(InputError, match="has changed"):
        example.load()
    assert only(tmp_path, caption="x").digest != example.digest


def test_sizes_come_from_headers_alone(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture is decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a picture is decoded"))
    assert only(tmp_path, caption="x").width == 40


def test_condition_pictures_of_another_folder(tmp_path):
    picture(tmp_path / "data/in/a.png")
    picture(tmp_path / "data/b.png")
    picture(tmp_path / "edges/in/a.jpg", size=(20, 12), colour="white")
    data = read_data(tmp_path / "data", conditions=tmp_path / "edges", caption="x")
    assert [example.name for example in data.examples] == ["in/a.png"]
    assert data.skipped == (("b.png", "it has no condition picture: put one of the name b into --conditions"),)
    assert data.examples[0].load_condition().size == (20, 12)
    with pytest.raises(InputError, match="has no condition picture"):
        read_data(tmp_path / "data", caption="x").examples[0].load_condition()


def test_condition_pictures_inside_the_data_are_not_trained_on(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "edges/a.png")
    assert only(tmp_path, conditions=tmp_path / "edges", caption="x").condition is not None


def test_progress(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    seen = []
    read_data(tmp_path, caption="x", progress=lambda done, total: seen.append((done, total)), threads=2)
    assert seen == [(1, 3), (2, 3), (3, 3)]
