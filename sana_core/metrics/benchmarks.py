"""The prompts of three benchmarks, and the files that their own tools read.

GenEval (arXiv:2310.11513, github.com/djghosh13/geneval): `README.md` and `evaluation/evaluate_images.py` there.
DPG-Bench (arXiv:2403.05135, github.com/TencentQQGYLab/ELLA): `dpg_bench/compute_dpg_bench.py` there; it tries every
file of its folder as a grid, so that grids have a folder of their own. MJHQ-30K (arXiv:2402.17245,
huggingface.co/datasets/playgroundai/MJHQ-30K): as NVlabs/Sana's `tools/metrics/pytorch-fid/compute_fid.py` reads it,
all pictures in one folder. Nothing here draws.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..checkpoint.new_file import new_file
from ..checkpoint.read_json import read_json
from ..errors import InputError, listed
from ..training.data.picture import Stored, decoded

EACH = 4  # pictures per prompt of GenEval and DPG-Bench
SAFE = re.compile(r"[A-Za-z0-9_-]{1,200}")  # an id that is a part of a file's name
LARGEST = 256 << 20  # bytes of a list of prompts


@dataclass(frozen=True)
class Row:
    """id: unique. file: where the picture goes, from the benchmark's folder, with "/" and without an ending."""

    id: str
    prompt: str
    file: str


@dataclass(frozen=True)
class Prompt:
    """id: its own name in files. entry: its line, where the benchmark wants it back."""

    id: str
    text: str
    entry: Any = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """count: prompts of the published list. ending: of pictures. read: the prompts of a published list, in its
    order. places: where the pictures of a prompt go. square: they have to be. companion: the file that a prompt
    gets beside them, if any. finish: writes it from the pictures.
    """

    title: str
    source: str
    count: int
    ending: str
    read: Callable[[Path], list[Prompt]]
    places: Callable[[str], Sequence[str]]
    square: bool = False
    companion: Callable[[str], str] | None = None
    finish: Callable[[Prompt, Sequence[Path], Path], None] | None = None

    def rows(self, prompts: Path) -> list[Row]:
        """What to draw. Raises InputError for a list that cannot be read."""
        found = self.read(prompts)
        return [
            Row(prompt.id if len(self.places(prompt.id)) == 1 else f"{prompt.id}-{number}", prompt.text, file)
            for prompt in found
            for number, file in enumerate(self.places(prompt.id))
        ]

    def write_companions(self, prompts: Path, out: Path) -> int:
        """Write what the tool reads beside the pictures, for each prompt whose pictures are all there.

        Returns for how many. Raises InputError, as for pictures that do not fit into one grid.
        """
        if self.companion is None or self.finish is None:
            return 0
        done = 0
        for prompt in self.read(prompts):
            pictures = [out / f"{file}{self.ending}" for file in self.places(prompt.id)]
            if all(map(Path.is_file, pictures)):
                target = out / self.companion(prompt.id)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.finish(prompt, pictures, target)
                done += 1
        return done

    def missing(self, prompts: Path, out: Path) -> list[str]:
        """Files that the tool needs and that are not there, or are empty, from the benchmark's folder."""
        return [file for prompt in self.read(prompts) for file in self._files(prompt.id) if not _is_there(out / file)]

    def _files(self, name: str) -> Iterator[str]:
        yield from (f"{file}{self.ending}" for file in self.places(name))
        if self.companion is not None:
            yield self.companion(name)


def read_geneval(path: Path) -> list[Prompt]:
    """`prompts/evaluation_metadata.jsonl`: an object a line, with what has to be seen. Raises InputError."""
    prompts = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            entry = read_json(line, where, InputError)
            if not isinstance(entry, dict) or not isinstance(entry.get("tag"), str):
                raise InputError(f"{where}: expected an object with tag and prompt, as GenEval's list has")
            prompts.append(Prompt(f"{len(prompts):05}", _prompt(entry, where), entry))
    return _some(prompts, path)


def read_dpg(path: Path) -> list[Prompt]:
    """`dpg_bench/prompts`: a folder with a text ID.txt for each prompt. Raises InputError."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder: name DPG-Bench's prompts, a folder with a .txt for each")
    files = sorted(file for file in path.iterdir() if file.suffix == ".txt" and file.is_file())
    return _some([Prompt(_id(file.stem, path), _prompt({"prompt": _text(file)}, str(file))) for file in files], path)


def read_mjhq(path: Path) -> list[Prompt]:
    """`meta_data.json`: {id: {prompt, category}}. Raises InputError."""
    entries = read_json(_text(path), str(path), InputError)
    if not isinstance(entries, dict):
        raise InputError(f"{path} holds a JSON {type(entries).__name__}, expected an object of prompts by id")
    return _some([Prompt(_id(name, path), _prompt(entry, f"{path}, {name}")) for name, entry in entries.items()], path)


def write_metadata(prompt: Prompt, pictures: Sequence[Path], target: Path) -> None:
    """GenEval's metadata.jsonl: the line of the list."""
    with new_file(target, overwrite=True) as partial:
        partial.write_text(json.dumps(prompt.entry), encoding="utf-8")


def write_grid(prompt: Prompt, pictures: Sequence[Path], target: Path) -> None:
    """DPG-Bench's grid, two by two, row by row. Its tool cuts it at one --resolution: pictures are equal squares."""
    loaded = []
    for path in pictures:
        try:
            loaded.append(decoded(Stored(path).read()))
        except InputError as error:
            raise InputError(f"{path}: {error}: draw it again") from error
    side = loaded[0].width
    if any(picture.size != (side, side) for picture in loaded):
        sizes = sorted({f"{picture.width}x{picture.height}" for picture in loaded})
        raise InputError(f"{prompt.id} has pictures of {listed(sizes)}: a grid needs squares of one size")
    grid = Image.new("RGB", (2 * side, 2 * side))
    for number, picture in enumerate(loaded):
        grid.paste(picture, (number % 2 * side, number // 2 * side))
    with new_file(target, overwrite=True) as partial:
        grid.save(partial, "PNG")


BENCHMARKS = {
    "geneval": Benchmark(
        title="GenEval",
        source="github.com/djghosh13/geneval: prompts/evaluation_metadata.jsonl",
        count=553,
        ending=".png",
        read=read_geneval,
        places=lambda name: [f"{name}/samples/{number:04}" for number in range(EACH)],
        companion=lambda name: f"{name}/metadata.jsonl",
        finish=write_metadata,
    ),
    "dpg": Benchmark(
        title="DPG-Bench",
        source="github.com/TencentQQGYLab/ELLA: dpg_bench/prompts",
        count=1065,
        ending=".png",
        read=read_dpg,
        places=lambda name: [f"pictures/{name}/{number}" for number in range(EACH)],
        square=True,
        companion=lambda name: f"grids/{name}.png",
        finish=write_grid,
    ),
    "mjhq": Benchmark(
        title="MJHQ-30K",
        source="huggingface.co/datasets/playgroundai/MJHQ-30K: meta_data.json",
        count=30_000,
        ending=".jpg",
        read=read_mjhq,
        places=lambda name: [name],
    ),
}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has more than {LARGEST >> 20} MiB: expected a list of prompts")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({said}): expected a benchmark's list of prompts") from error


def _prompt(entry: Any, where: str) -> str:
    text = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: expected an object with a prompt that is a text")
    return text.strip()


def _id(name: str, path: Path) -> str:
    if not SAFE.fullmatch(name):
        raise InputError(f"{path}: {name!a:.80} is no id: expected letters, digits, - and _")
    return name


def _some(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise InputError(f"{path} has no prompts")
    return prompts


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
