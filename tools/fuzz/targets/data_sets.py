"""Data sets to train on: captions beside pictures, tables, tars."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from sana_core.training.data.draws import Draws
from sana_core.training.data.read import read_data

from ..target import Files, Target

LARGEST = 1 << 20  # pixels of a picture that is decoded
BLOCK, CHECKSUM, MAGIC = 512, slice(148, 156), slice(257, 262)  # of a tar's header
REPAIRED = "repaired.tar"  # its headers get right checksums, so that what is damaged in them is read


@functools.cache
def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 16), "red").save(out, kind, exif=exif)
    return out.getvalue()


@functools.cache
def captioned() -> list[Files]:
    rows = [
        {"file_name": "a.png", "text": "a cat"},
        {"file_name": "in/b.png", "captions": ["a dog", "a wolf"], "weights": [0.75, 0.25]},
        {"file_name": "c.jpg", "captions": {"x": "a", "y": "b"}, "weights": {"x": 1}, "conditioning_image": "in/b.png"},
    ]
    pictures = {"a.png": picture(), "in/b.png": picture(), "c.jpg": picture("JPEG")}
    captions = {"prompt": "a cat", "VLM": "a black cat", "captions": ["x", "y"], "weights": [1, 2.5]}
    labelled, scores = {"a": {"VLM": "a black cat"}}, {"a": {"VLM": "27.5", "prompt": 26}}
    return [
        {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(), **pictures},
        {"a.json": json.dumps(captions).encode(), "a.png": picture()},
        {"a.json": b'["a cat", "a dog"]', "a.webp": picture("WEBP")},
        {
            "a.txt": "a cat\r\n\nan animal \u2028\n".encode(),
            "a_VLM.json": json.dumps(labelled).encode(),
            "a_VLM_clip_score.json": json.dumps(scores).encode(),
            "a.png": picture(),
        },
    ]


@functools.cache
def tars() -> list[Files]:
    """Tars of each format, as they are and with right checksums after the damage."""
    forms = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
    return [{name: tar(form)} for form in forms for name in ("x.tar", REPAIRED)]


def tar(form: int) -> bytes:
    out = io.BytesIO()
    long = "" if form == tarfile.USTAR_FORMAT else "very/" * 30
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        members = (("0.png", picture()), ("0.json", b'{"prompt": "a cat"}'), (f"{long}1.jpg", picture("JPEG")))
        for name, content in (*members, (f"{long}1.txt", b"a dog"), ("link.png", None)):
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            archive.addfile(member, None if content is None else io.BytesIO(content))
    return out.getvalue()


def read(folder: Path) -> None:
    if (folder / REPAIRED).exists():
        (folder / REPAIRED).write_bytes(repaired((folder / REPAIRED).read_bytes()))
    data = read_data(folder, threads=1)
    Draws(data, batch=2, seed=0, native=256, temperature=0.1)(1)
    for example in data.examples:
        if example.width * example.height <= LARGEST:
            example.load()


def repaired(content: bytes) -> bytes:
    """A tar whose headers all have right checksums."""
    found = bytearray(content)
    for start in range(0, len(found) - BLOCK + 1, BLOCK):
        header = found[start : start + BLOCK]
        if header[MAGIC] == b"ustar":
            header[CHECKSUM] = b" " * 8
            header[CHECKSUM] = b"%06o\0 " % sum(header)
            found[start : start + BLOCK] = header
    return bytes(found)


TARGETS = (
    Target(name="captions", seeds=captioned, read=read, room=64 << 20),
    Target(name="tar", seeds=tars, read=read, room=64 << 20),
)
