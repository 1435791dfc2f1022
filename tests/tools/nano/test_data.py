"""Reading the npm packages, on packages in small; drawings as they are stored."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tools.nano import data
from tools.nano.pictures import Drawings
from tools.nano.sizes import TARGET_256

BODY = '<rect width="64" height="128" fill="#ff0000"/>'
ENTRIES = [  # label, emoji, group, order
    ("red heart", "\u2764\ufe0f", 0, 5), ("owl", "\U0001f989", 3, 9), ("flag: Japan", "\U0001f1ef\U0001f1f5", 9, 1),
    ("genie", "\U0001f9de", 1, 3), ("robot", "\U0001f916", 0, 2),
]  # fmt: skip


@pytest.fixture
def packages(tmp_path):
    """Noto without the robot, the older Noto with the owl alone, Fluent with heart and genie; CLDR's names in English
    and Chinese.
    """

    def write(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    table = [{"label": label, "emoji": emoji, "group": group, "order": order} for label, emoji, group, order in ENTRIES]
    write(tmp_path / "emojibase-data/en/data.json", table)
    names = {data.hexcode(emoji): label.replace(" ", "-") for label, emoji, _, _ in ENTRIES}
    for package, drawn in (("noto", ["red-heart", "owl", "genie", "flag:-Japan"]), ("noto-v1", ["owl"])):
        icons = {name: {"body": BODY} for name in drawn}
        write(tmp_path / "@iconify-json" / package / "icons.json", {"icons": icons, "width": 128, "height": 128})
    write(tmp_path / "@iconify-json/noto/chars.json", names)
    for locale, suffix in (("en", ""), ("zh", "\u7684")):
        cldr = {
            emoji.replace("\ufe0f", ""): {"default": [label.split()[0]], "tts": [label + suffix]}
            for label, emoji, _, _ in ENTRIES
        }
        write(
            tmp_path / f"cldr-annotations-full/annotations/{locale}/annotations.json",
            {"annotations": {"annotations": cldr}},
        )
        derived = tmp_path / f"cldr-annotations-derived-full/annotationsDerived/{locale}/annotations.json"
        write(derived, {"annotationsDerived": {"annotations": {}}})
    fluent = tmp_path / "@lobehub/fluent-emoji-3d/assets"
    fluent.mkdir(parents=True)
    for code, side in (("2764-fe0f", 256), ("1f9de", 264)):
        Image.new("RGBA", (256, side), (0, 255, 0, 128)).save(fluent / f"{code}.webp", lossless=True)
    return tmp_path


def test_the_core_is_what_the_first_style_draws_of_its_groups(packages):
    _, records, others = data.collect(packages, TARGET_256)
    assert [(record["name"], record["styles"]) for record in records] == [
        ("red heart", ["noto", "fluent3d"]),
        ("owl", ["noto"]),
    ]
    assert records[0]["emoji"] == "\u2764" and records[1]["zh"] == "owl\u7684" and records[1]["keywords"] == ["owl"]
    assert others == ["noto/1f9de", "fluent3d/1f9de", "noto_v1/1f989"]


def test_fluent_files_are_kept_and_others_made_square(packages):
    fluent = data.Fluent3D(packages / "@lobehub/fluent-emoji-3d/assets")
    assert fluent.webp("\u2764", 256) == (packages / "@lobehub/fluent-emoji-3d/assets/2764-fe0f.webp").read_bytes()
    assert Image.open(io.BytesIO(fluent.webp("\U0001f9de", 256))).size == (256, 256)


def test_svg_drawings_are_rendered(packages):
    icons = packages / "@iconify-json"
    names = json.loads((icons / "noto/chars.json").read_text())
    rgba = np.asarray(Image.open(io.BytesIO(data.IconifySet(icons / "noto", names).webp("\U0001f989", 64))))
    assert rgba[32, 16].tolist() == [255, 0, 0, 255] and rgba[32, 48, 3] == 0
    assert not data.IconifySet(icons / "noto-v1", names).has("\u2764")


def test_stored_drawings_are_premultiplied(tmp_path):
    with zipfile.ZipFile(tmp_path / "drawings.zip", "w") as archive:
        archive.writestr("a/1.webp", data.lossless(Image.new("RGBA", (8, 8), (200, 100, 0, 51))))
        archive.writestr("a/2.webp", data.lossless(Image.new("RGBA", (8, 8), (200, 100, 50, 0))))
    drawings = Drawings(tmp_path / "drawings.zip", ["a/2", "a/1"])
    assert drawings.index == {"a/2": 0, "a/1": 1}
    assert drawings.rgba[1, :, 0, 0].tolist() == [40, 20, 0, 51] and drawings.rgba[0].max() == 0
