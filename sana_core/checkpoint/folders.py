"""Which files of a folder make up one model.

Names are those of diffusers and transformers: STEM.safetensors, STEM.VARIANT.safetensors such as fp16, parts
STEM-00001-of-00002.safetensors, and an index that lists the parts. The order is theirs, too: without a variant before
with one; then .safetensors before pickles; then the parts of an index, the whole file, parts without an index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, listed
from .read_json import read_object_file

SUFFIXES = ("safetensors", "bin", "pth", "pt", "ckpt")
VARIANTS = ("fp32", "bf16", "fp16")  # taken in this order; any other name is a variant too if STEM alone is there
# What trainers write beside weights: begins of file names.
BESIDE = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args", "sampler")
_PART = re.compile(r"(?P<before>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<after>(?:\.\w+)?\.[a-z]+)")
_INDEX = re.compile(
    r"(?P<stem>.+?)(?:\.(?P<v1>\w+))?\.(?P<suffix>safetensors|bin)(?:\.(?P<v2>\w+))?\.index(?:\.(?P<v3>\w+))?\.json"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Files that are one model, whole or with some of them missing."""

    stem: str
    variant: str
    suffix: str
    kind: int  # 0: listed by an index, 1: one file, 2: parts without an index
    name: str
    files: tuple[Path, ...]

    @property
    def missing(self) -> list[str]:
        return [file.name for file in self.files if not _is_there(file)]

    @property
    def order(self) -> tuple[bool, int, int, int]:
        variant = VARIANTS.index(self.variant) if self.variant in VARIANTS else len(VARIANTS)
        return bool(self.variant), variant, SUFFIXES.index(self.suffix), self.kind


def weight_files(folder: Path, *, strict: bool = True) -> list[Path]:
    """The files of the model in a folder.

    Raises CheckpointError if there is none, if there are several, and if files are missing. strict: False gives an
    empty list in place of these errors.
    """
    try:
        return _weight_files(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror or error})") from error
    except CheckpointError:
        if strict:
            raise
        return []


def _weight_files(folder: Path) -> list[Path]:
    found = sorted(_candidates(folder), key=lambda candidate: (candidate.order, candidate.name))
    if not found:
        raise CheckpointError(_nothing(folder))
    whole = [candidate for candidate in found if not candidate.missing]
    if not whole:
        names = listed(found[0].missing)
        raise CheckpointError(
            f"{found[0].name} in {folder} needs files that are not there ({names}): download them again"
        )
    best = whole[0]
    rivals = [other for other in whole[1:] if other.suffix == best.suffix]
    others = [r.name for r in rivals if r.stem != best.stem or (r.order == best.order and r.variant != best.variant)]
    if others:
        raise CheckpointError(f"{folder} holds several models ({listed([best.name, *others])}): name the file")
    return list(best.files)


def joined_parts(path: Path) -> tuple[list[Path], str]:
    """The files that make up a model with this file, and a note for messages: all parts of a model in several files if
    they are beside it, else the file alone.
    """
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return [path], ""
    parts = _parts_beside(path, match)
    missing = [part.name for part in parts if not _is_there(part)]
    if missing or path not in parts:
        number, count = int(match["number"]), int(match["count"])
        return [path], f" (part {number} of {count}, and {listed(missing, 2)} is not beside it)"
    return parts, ""


def _parts_beside(path: Path, match: re.Match[str]) -> list[Path]:
    count = min(int(match["count"]), 10_000)
    names = (f"{match['before']}-{number:05}-of-{match['count']}{match['after']}" for number in range(1, count + 1))
    return [path.with_name(name) for name in names]


def _candidates(folder: Path) -> list[Candidate]:
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", *BESIDE))]
    files = [path for path in paths if _is_there(path) and not _is_second_name(path)]
    weights = [path for path in files if _has_weights(path)]
    stems = {path.stem for path in weights}
    found: dict[tuple[Path, ...], Candidate] = {}
    for path in files:
        if match := _INDEX.fullmatch(path.name):
            candidate = _of_index(path, match)
            found[candidate.files] = candidate
    for path in weights:
        match = _PART.fullmatch(path.name)
        parts = tuple(_parts_beside(path, match)) if match else (path,)
        if not any(path in candidate.files for candidate in found.values()):
            stem, variant = _split(f"{match['before']}{match['after']}" if match else path.name, stems)
            found[parts] = Candidate(
                stem=stem,
                variant=variant,
                suffix=path.suffix.removeprefix("."),
                kind=2 if match else 1,
                name=path.name,
                files=parts,
            )
    return list(found.values())


def _of_index(path: Path, match: re.Match[str]) -> Candidate:
    weight_map = read_object_file(path).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and _all_names(weight_map.values()) else set()
    if not names:
        raise CheckpointError(f"{path} lists no files of this folder under weight_map: download the folder again")
    return Candidate(
        stem=match["stem"],
        variant=match["v1"] or match["v2"] or match["v3"] or "",
        suffix=match["suffix"],
        kind=0,
        name=path.name,
        files=tuple(path.with_name(name) for name in sorted(names)),
    )


def _all_names(values: Iterable[object]) -> bool:
    """Are these names of files in the same folder?"""
    return all(isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..") for name in values)


def _split(name: str, stems: set[str]) -> tuple[str, str]:
    """Stem and variant in the name of a weight file."""
    stem = name.rpartition(".")[0]
    before, _, last = stem.rpartition(".")
    return (before, last) if before and (last in VARIANTS or before in stems) else (stem, "")


def _is_there(path: Path) -> bool:
    return path.is_file() or path.is_symlink()  # a dangling link is there, and an error when it is opened


def _is_second_name(path: Path) -> bool:
    """Is it a link to another file of the same folder, such as latest.pth?"""
    return path.is_symlink() and path.readlink().parent in (Path(), path.parent)


def _has_weights(path: Path) -> bool:
    return path.suffix.removeprefix(".") in SUFFIXES and not path.stem.endswith("optim_states")


def _nothing(folder: Path) -> str:
    """What to say of a folder without weights: where they are, if that is one level deeper."""
    if any(folder.glob("*.distcp")):
        return (
            f"{folder} holds parts of a distributed training's state, expected weights: join them with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    names = [path.name for path in folders if any(map(_has_weights, path.iterdir()))]
    hint = f"; there are some in {listed(names)}: name the file or folder that you want" if names else ""
    return f"{folder}: no .safetensors, .bin or .pth file in this folder{hint}"
