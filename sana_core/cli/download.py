"""The option --model: files of a released model, from this machine or, if the user agrees, from Hugging Face."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, SanaError
from ..presets import PublishedFile
from .models import local_file, page, parts, release
from .output import is_terminal, tell, write

MISSING = "downloading needs huggingface_hub: pip install huggingface_hub"
SPARE = 1_000_000_000  # bytes that stay free on the disk


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file, and its bytes as the hub states them."""

    file: PublishedFile
    size: int | None

    @property
    def words(self) -> str:
        size = "of unknown size" if self.size is None else f"{self.size / 1e9:.2f} GB"
        return f"{self.file.file_name}, {size}, licence: {page(self.file)}"


def released_files(
    name: str, models_dir: Path | None, *, without: Collection[str] = (), yes: bool = False, quiet: bool = False
) -> dict[str, Path]:
    """Paths by the parts of the pipeline. What is not there is downloaded into the cache of huggingface_hub, or into
    `models_dir` in the same form. without: parts that are not needed. yes: download without asking.

    Raises InputError, also if the user does not agree.
    """
    wanted = {part: file for part, file in parts(release(name)).items() if part not in without}
    found = {part: local_file(file, models_dir) for part, file in wanted.items()}
    missing = {part: file for part, file in wanted.items() if found[part] is None}
    if missing:
        remote = {part: _remote(file) for part, file in missing.items()}
        folder = _folder(models_dir)
        _check_space(folder, sum(file.size or 0 for file in remote.values()))
        _ask(name, list(remote.values()), folder, yes=yes)
        for part, file in remote.items():
            found[part] = _downloaded(file, models_dir, quiet=quiet)
    return {part: path for part, path in found.items() if path is not None}


def _remote(file: PublishedFile) -> Remote:
    with _one_line(file) as hub:
        stated = hub.get_hf_file_metadata(hub.hf_hub_url(file.repository, file.file))
    return Remote(file=file, size=stated.size)


def _downloaded(remote: Remote, models_dir: Path | None, *, quiet: bool) -> Path:
    file = remote.file
    with _one_line(file) as hub:
        bars = hub.utils.are_progress_bars_disabled()
        if quiet or not is_terminal(sys.stderr):
            hub.utils.disable_progress_bars()
        try:
            path = Path(hub.hf_hub_download(file.repository, file.file, cache_dir=models_dir))
        finally:
            if not bars:
                hub.utils.enable_progress_bars()
    size = path.stat().st_size
    if remote.size not in (None, size):
        raise InputError(f"{path} has {size} bytes, the hub states {remote.size}: delete it and start again")
    return path


def _ask(name: str, files: list[Remote], folder: Path, *, yes: bool) -> None:
    """Say what would be downloaded. Raises InputError if the user does not agree."""
    total = sum(file.size or 0 for file in files)
    tell(f"{name} needs {len(files)} files that are not here, {total / 1e9:.2f} GB, from Hugging Face:")
    for file in files:
        tell(f"  {file.words}")
    tell(f"they go to {folder}")
    if yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise InputError("nothing was downloaded, because nobody can be asked here: agree with --yes")
    write(sys.stderr, "download them? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was downloaded")


def _folder(models_dir: Path | None) -> Path:
    if models_dir is not None:
        return models_dir
    with _one_line() as hub:
        return Path(hub.constants.HF_HUB_CACHE)


def _check_space(folder: Path, size: int) -> None:
    place = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), None)
    free = None if place is None else shutil.disk_usage(place).free
    if free is not None and free < size + SPARE:
        raise InputError(
            f"{folder} has {free / 1e9:.1f} GB free, the files take {size / 1e9:.1f} GB: name a folder on another disk "
            "with --models-dir"
        )


@contextmanager
def _one_line(file: PublishedFile | None = None) -> Iterator[Any]:
    """huggingface_hub, whose errors become InputErrors of one line."""
    try:
        import huggingface_hub as hub
        import huggingface_hub.constants
        import huggingface_hub.utils  # parts that it does not import by itself
    except ImportError as error:
        raise InputError(MISSING) from error
    try:
        yield hub
    except SanaError:
        raise
    except Exception as error:  # of huggingface_hub, of the library it asks with, of the disk
        if file is None:
            raise
        raise InputError(f"{file.file_name} {_reason(error)}: see {page(file)}") from error


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    first_line = str(error).strip().partition("\n")[0]
    if status in (401, 403):
        return "cannot be had without an account that accepted its licence, or is not there any more"
    if status == 404:
        return "is not on the hub any more"
    if "Consistency check failed" in first_line:
        return f"did not arrive whole, so nothing of it was kept ({first_line}); start again"
    return f"cannot be downloaded ({first_line or type(error).__name__})"
