"""Stage `data`: draw the pictures and collect the names.

    python -m tools.nano.data WORK --size 256 --packages NODE_MODULES

NODE_MODULES holds the npm packages named in README.md; the toy size draws its own shapes and needs none. Writes
WORK/drawings.zip (RGBA WebP, `style/hexcode.webp`) and WORK/names.json.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from .command import from_arguments, parser
from .sizes import Size
from .toy import TOY_CONCEPTS, Shapes

log = logging.getLogger("nano")
HERE = Path(__file__).parent
CORE_GROUPS = (0, 3, 4, 5, 6, 7)  # emojibase: smileys, animals and nature, food, travel and places, activities, objects
LISTED_GROUPS = (3, 4, 5, 6, 7)  # what the other drawings of the 128 px model are from
OTHER_GROUPS = (1, 8)  # people and symbols: never named, seen by the autoencoder only; flags by nothing
BLOBS = "noto_v1"  # the older Noto, other drawings of the same things: for the autoencoder alone


class Style(Protocol):
    """A set of drawings."""

    def has(self, emoji: str) -> bool: ...

    def webp(self, emoji: str, pixels: int) -> bytes:
        """A square picture with transparency."""
        ...


class IconifySet:
    """SVG drawings of an `@iconify-json` package. names: hexcode -> icon (the older Noto comes without, the new one's
    serve).
    """

    def __init__(self, folder: Path, names: dict[str, str]) -> None:
        content = read_json(folder / "icons.json")
        self.icons, self.names = content["icons"], names
        self.side = content["height"]

    def has(self, emoji: str) -> bool:
        return self.names.get(hexcode(emoji)) in self.icons

    def webp(self, emoji: str, pixels: int) -> bytes:
        import resvg_py

        icon = self.icons[self.names[hexcode(emoji)]]
        sides = [icon.get(side, self.side) for side in ("width", "height")]
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {sides[0]} {sides[1]}">{icon["body"]}</svg>'
        )
        return lossless(
            Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels))))
        )


class Fluent3D:
    """Microsoft's Fluent 3D emoji as pictures of 256 px."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            "-".join(part for part in path.stem.split("-") if part != "fe0f"): path
            for path in sorted(folder.glob("*.webp"))
        }

    def has(self, emoji: str) -> bool:
        return hexcode(emoji) in self.files

    def webp(self, emoji: str, pixels: int) -> bytes:
        """The file itself where it has the size: as it is it is much smaller than without loss."""
        with Image.open(self.files[hexcode(emoji)]) as picture:
            if picture.size == (pixels, pixels):
                return self.files[hexcode(emoji)].read_bytes()
            return lossless(ImageOps.fit(picture.convert("RGBA"), (pixels, pixels), Image.Resampling.LANCZOS))


def lossless(picture: Image.Image) -> bytes:
    """A picture as WebP. Invisible pixels have any colour in the packages: black is smaller."""
    rgba = np.asarray(picture.convert("RGBA"))
    buffer = io.BytesIO()
    Image.fromarray(rgba * (rgba[..., 3:] > 0)).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def hexcode(emoji: str) -> str:
    """Code points without the variation selector, which packages write or leave out as they like."""
    return "-".join(f"{ord(char):x}" for char in emoji if char != "\ufe0f")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_listed(path: Path = HERE / "concepts.txt") -> dict[str, tuple[list[str], list[str]]]:
    """CLDR name -> (everyday names, everyday Chinese names), in the order of the file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = [
        [[word.strip() for word in part.split(",") if word.strip()] for part in f"{line} | | ".split(" |")[:3]]
        for line in lines
    ]
    return {name[0]: (english, chinese) for name, english, chinese in rows}


def named_records(packages: Path, size: Size, styles: dict[str, Style]) -> tuple[list[dict], list[str]]:
    """(one record of names for each concept, emoji beside them that only the autoencoder sees)."""
    table = read_json(packages / "emojibase-data" / "en" / "data.json")
    english, chinese = (cldr_names(packages, locale) for locale in ("en", "zh"))
    listed, by_name = read_listed(), {entry["label"]: entry for entry in table}
    first = styles[size.styles[0]]
    if size.source == "listed":
        entries, groups = [by_name[name] for name in listed], LISTED_GROUPS
    else:
        core = sorted((entry for entry in table if entry.get("group") in CORE_GROUPS), key=lambda entry: entry["order"])
        entries, groups = [entry for entry in core if first.has(entry["emoji"])], OTHER_GROUPS
    records = []
    for entry in entries:
        emoji = entry["emoji"].replace("\ufe0f", "")
        aliases, zh_aliases = listed.get(entry["label"], ([], []))
        names = {locale: cldr[emoji] for locale, cldr in (("en", english), ("zh", chinese))}
        records.append({
            "name": entry["label"], "emoji": emoji, "aliases": aliases, "keywords": names["en"].get("default", []),
            "zh": names["zh"]["tts"][0], "zh_aliases": zh_aliases, "zh_keywords": names["zh"].get("default", []),
            "styles": [name for name in size.styles if styles[name].has(emoji)],
        })  # fmt: skip
    used = {record["emoji"] for record in records}
    others = [entry["emoji"].replace("\ufe0f", "") for entry in table if entry.get("group") in groups]
    return records, [emoji for emoji in others if emoji not in used]


def cldr_names(packages: Path, locale: str) -> dict:
    """CLDR's names ("tts") and keywords ("default") by emoji; those of sequences are derived ones."""
    plain = read_json(packages / "cldr-annotations-full" / "annotations" / locale / "annotations.json")["annotations"][
        "annotations"
    ]
    derived = packages / "cldr-annotations-derived-full" / "annotationsDerived" / locale / "annotations.json"
    return {**read_json(derived)["annotationsDerived"]["annotations"], **plain}


def open_styles(packages: Path, size: Size) -> dict[str, Style]:
    """The drawings by the name of their style; beside those of the size the one that a LoRA learns."""
    icons = packages / "@iconify-json"
    names = read_json(icons / "noto" / "chars.json")
    styles: dict[str, Style] = {"noto": IconifySet(icons / "noto", names), BLOBS: IconifySet(icons / "noto-v1", names)}
    if "fluent3d" in size.styles:
        styles["fluent3d"] = Fluent3D(packages / "@lobehub" / "fluent-emoji-3d" / "assets")
    return styles


def collect(packages: Path | None, size: Size) -> tuple[dict[str, Style], list[dict], list[str]]:
    """(styles, records, other drawings as "style/hexcode")."""
    if size.source == "drawn":
        styles: dict[str, Style] = {name: Shapes(name) for name in (*size.styles, BLOBS)}
        records, others = [{**concept, "styles": list(size.styles)} for concept in TOY_CONCEPTS], Shapes.others()
    elif packages is None:
        raise SystemExit(
            f"the size {size.name} is drawn from npm packages: say where they are with --packages NODE_MODULES"
        )
    else:
        styles = open_styles(packages, size)
        records, others = named_records(packages, size, styles)
    drawings = [f"{name}/{hexcode(emoji)}" for name in size.styles for emoji in others if styles[name].has(emoji)]
    blobs = [f"{BLOBS}/{hexcode(record['emoji'])}" for record in records if styles[BLOBS].has(record["emoji"])]
    return styles, records, drawings + blobs


def write_drawings(path: Path, styles: dict[str, Style], keys: Iterable[str], pixels: int) -> int:
    """One WebP for each "style/hexcode". Returns their number."""
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for key in keys:
            style, code = key.split("/")
            emoji = "".join(chr(int(part, 16)) for part in code.split("-"))
            archive.writestr(zipfile.ZipInfo(f"{key}.webp"), styles[style].webp(emoji, pixels))
            count += 1
    return count


def build(work: Path, size: Size, packages: Path | None) -> None:
    """Everything the later stages read."""
    styles, records, others = collect(packages, size)
    work.mkdir(parents=True, exist_ok=True)
    named = [f"{style}/{hexcode(record['emoji'])}" for record in records for style in record["styles"]]
    count = write_drawings(work / "drawings.zip", styles, [*named, *others], size.pixels)
    names = {"concepts": records, "others": others}
    (work / "names.json").write_text(json.dumps(names, ensure_ascii=False, indent=1), encoding="utf-8")
    log.info(
        "%d concepts, %d drawings of them, %d drawings beside them, %d altogether",
        len(records),
        len(named),
        len(others),
        count,
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--packages", type=Path, help="node_modules with the packages of README.md")
    args = arguments.parse_args()
    command = from_arguments(args)
    build(command.work, command.size, args.packages)


if __name__ == "__main__":
    main()
