"""Stage 1: draw the pictures and collect the names.

    python tools/nano/dataset.py WORK --packages NODE_MODULES

NODE_MODULES holds the npm packages named in README.md. Writes WORK/images.npz (RGBA, uint8, 128 px) and WORK/names.json.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

log = logging.getLogger("nano")
HERE = Path(__file__).parent
SIZE = 128
DRAWN_GROUPS = (3, 4, 5, 6, 7)  # emojibase: animals and nature, food, places, activities, objects; no people, no flags
HELD_OUT = 32  # pictures that no stage is trained on


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_concepts(path: Path = HERE / "concepts.txt") -> dict[str, tuple[list[str], list[str]]]:
    """CLDR name -> (everyday names, everyday Chinese names), in the order of the file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = [[[word.strip() for word in part.split(",") if word.strip()] for part in f"{line} | | ".split(" |")[:3]] for line in lines]
    return {name[0]: (english, chinese) for name, english, chinese in rows}


class NotoEmoji:
    """Noto Emoji drawings by character."""

    def __init__(self, packages: Path) -> None:
        folder = packages / "@iconify-json" / "noto"
        self.icons = read_json(folder / "icons.json")["icons"]
        self.names = read_json(folder / "chars.json")

    def icon(self, emoji: str) -> str | None:
        codes = [f"{ord(char):x}" for char in emoji if char != "\ufe0f"]
        return self.names.get("-".join(codes))

    def draw(self, emoji: str) -> np.ndarray:
        """The emoji as straight-alpha RGBA (128, 128, 4), uint8."""
        body = self.icons[self.icon(emoji)]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 128 128">{body}</svg>'
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def read_annotations(packages: Path, locale: str) -> dict:
    return read_json(packages / "cldr-annotations-full" / "annotations" / locale / "annotations.json")["annotations"]["annotations"]


def collect(packages: Path) -> tuple[list[dict], list[str]]:
    """(one record of names per concept, the emoji of every other drawing without people and flags)."""
    table = {entry["label"]: entry for entry in read_json(packages / "emojibase-data" / "en" / "data.json")}
    english, chinese = read_annotations(packages, "en"), read_annotations(packages, "zh")
    records = []
    for name, (aliases, zh_aliases) in read_concepts().items():
        emoji = table[name]["emoji"].replace("\ufe0f", "")
        records.append(
            {
                "name": name,
                "emoji": emoji,
                "aliases": aliases,
                "keywords": english[emoji]["default"],
                "zh": chinese[emoji]["tts"][0],
                "zh_aliases": zh_aliases,
                "zh_keywords": chinese[emoji]["default"],
            }
        )
    used = {record["emoji"] for record in records}
    others = [entry["emoji"].replace("\ufe0f", "") for entry in table.values() if entry.get("group") in DRAWN_GROUPS]
    return records, [emoji for emoji in others if emoji not in used]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--packages", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records, others = collect(args.packages)
    noto = NotoEmoji(args.packages)
    pictures = np.stack([noto.draw(record["emoji"]) for record in records])
    more = np.stack([noto.draw(emoji) for emoji in others if noto.icon(emoji)])
    more = more[np.random.default_rng(0).permutation(len(more))]
    args.work.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.work / "images.npz", concepts=pictures, others=more[HELD_OUT:], held_out=more[:HELD_OUT])
    (args.work / "names.json").write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    log.info("%d concepts, %d other pictures, %d held out", len(pictures), len(more) - HELD_OUT, HELD_OUT)


if __name__ == "__main__":
    main()
