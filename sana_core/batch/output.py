"""Where the pictures of a batch go, and how a shard is written: a tar and its table, or plain files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar, cast

from PIL import features

from .. import whole_files
from ..errors import InputError
from ..pictures.saving import FORMATS, QUALITY, picture_bytes
from ..whole_files import remove_partial, sync_folder, whole_file
from .ahead import overlapped
from .draw import Drawn, Failed
from .rows import Row
from .tables import pyarrow_parquet

AHEAD = 8  # pictures that wait for their turn to be written


class Shard(NamedTuple):
    """Rows that are drawn by one process. number: from 0, in the order of the prompt file."""

    number: int
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


class Content(NamedTuple):
    """The files of a picture."""

    drawn: Drawn
    picture: bytes

    @property
    def text(self) -> bytes:
        return cast(str, self.drawn.row.request.prompt).encode()

    @property
    def record(self) -> bytes:
        return json.dumps(self.drawn.record, ensure_ascii=False).encode()


Item = TypeVar("Item")
Items: TypeAlias = Iterable[Drawn | Failed]


@dataclass(frozen=True, kw_only=True)
class Output:
    """folder: where everything goes. format: "png", "webp" or "jpg". quality: of WebP and JPEG. plain: files in place
    of tars. table: a Parquet table beside each tar.
    """

    folder: Path
    format: str = "png"
    quality: int | None = None
    plain: bool = False
    table: bool = True

    def check(self) -> None:
        """Raise InputError for what cannot be written here."""
        if f".{self.format}" not in FORMATS:
            raise InputError(f"format is {self.format}, expected one of png, webp, jpg")
        if self.format == "webp" and not features.check("webp"):
            raise InputError("this Pillow writes no WebP: choose png or jpg, or install another Pillow")
        if self.format == "png" and self.quality is not None:
            raise InputError("quality is for webp and jpg; a PNG keeps every pixel: leave it out")
        if self.table and not self.plain:
            pyarrow_parquet("a table beside each tar cannot be written (--table none goes without)")

    @property
    def settings(self) -> dict[str, Any]:
        """Those that change what is written."""
        quality = None if self.format == "png" else QUALITY if self.quality is None else self.quality
        table = "none" if self.plain or not self.table else "parquet"
        return {"format": self.format, "quality": quality, "plain": self.plain, "table": table}

    def files(self, shard: Shard) -> Iterator[Path]:
        """Those of a finished shard, which a file of something else could have the name of."""
        yield self._failures(shard)
        if not self.plain:
            yield self.tar(shard)
            if self.table:
                yield self._table(shard)
            return
        for row in shard.rows:
            yield from (self._plain(row.file, ending) for ending in (self.format, "json"))

    def missing(self, shard: Shard) -> list[Row]:
        """The rows of a shard that are still to be drawn."""
        if not self.plain:
            return [] if self.tar(shard).exists() else list(shard.rows)
        return [row for row in shard.rows if not self._plain(row.file, self.format).exists()]

    def failed(self, shard: Shard) -> int:
        """How many rows of a finished tar have failed. Plain files that are missing are drawn again."""
        path = self._failures(shard)
        if self.plain or not self.tar(shard).exists() or not path.exists():
            return 0
        return path.read_bytes().count(b"\n")

    def write(self, shard: Shard, items: Items) -> Generator[Drawn | Failed, None, None]:
        """Write what is drawn of a shard, and yield it when it is on its way to the disk. Raises OSError."""
        failed: list[Failed] = []
        contents = overlapped(self._content, items, ahead=AHEAD)
        yield from self._write_plain(contents, failed) if self.plain else self._write_tar(shard, contents, failed)
        self._write_failed(shard, failed)
        sync_folder(self.folder)

    def tar(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.tar"

    def clean(self, shard: Shard) -> None:
        """Remove what a killed run has left of a shard."""
        for name in (shard.name, f"failed-{shard.name}"):
            remove_partial(self.folder, f".{name}")
        if self.plain:
            for row in shard.rows:
                path = self._plain(row.file, self.format)
                remove_partial(path.parent, f".{path.stem}")

    def _content(self, item: Drawn | Failed) -> Content | Failed:
        if isinstance(item, Failed):
            return item
        try:
            return Content(item, picture_bytes(item.picture, f".{self.format}", item.record, self.quality))
        except InputError as error:
            return Failed(item.row, str(error))

    def _write_tar(
        self, shard: Shard, contents: Iterable[Content | Failed], failed: list[Failed]
    ) -> Iterator[Drawn | Failed]:
        records: list[tuple[str, dict[str, Any]]] = []
        with whole(self.tar(shard)) as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for content in contents:
                    if isinstance(content, Failed):
                        failed.append(content)
                        yield content
                        continue
                    drawn = content.drawn
                    key = drawn.row.id + drawn.end
                    for ending, data in (
                        (self.format, content.picture),
                        ("txt", content.text),
                        ("json", content.record),
                    ):
                        _add(tar, f"{key}.{ending}", data)
                    records.append((drawn.row.id, {"key": key, **drawn.record}))
                    yield drawn
            self._write_failed(shard, failed)  # before the tar has its name, which says that the shard is finished
            if self.table:
                self._write_table(shard, _in_order(shard, records))

    def _write_table(self, shard: Shard, records: list[dict[str, Any]]) -> None:
        import pyarrow

        parquet = pyarrow_parquet("a table cannot be written")
        names = list(dict.fromkeys(name for record in records for name in record))
        columns = {name: _column(pyarrow, [_cell(record.get(name)) for record in records]) for name in names}
        with whole(self._table(shard)) as file:
            parquet.write_table(pyarrow.table(columns), file)

    def _write_plain(self, contents: Iterable[Content | Failed], failed: list[Failed]) -> Iterator[Drawn | Failed]:
        for content in contents:
            if isinstance(content, Failed):
                failed.append(content)
                yield content
                continue
            drawn = content.drawn
            for ending, data in (("json", content.record), (self.format, content.picture)):  # the picture is last
                path = self._plain(drawn.row.file + drawn.end, ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole(path) as file:
                    file.write(data)
            yield drawn

    def _write_failed(self, shard: Shard, failed: list[Failed]) -> None:
        """A prompt file of the rows without a picture."""
        path = self._failures(shard)
        if not failed:
            with suppress(FileNotFoundError):
                path.unlink()  # of an earlier run, whose pictures are there now
            return
        with whole(path) as file:
            for item in _in_order(shard, [(item.row.id, item) for item in failed]):
                file.write(json.dumps({**item.row.entry(), "reason": item.reason}).encode() + b"\n")

    def _failures(self, shard: Shard) -> Path:
        return self.folder / f"failed-{shard.name}.jsonl"

    def _table(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.parquet"

    def _plain(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}.{ending}"


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name at the end of the block. Raises OSError."""
    with whole_file(path, f".{path.name}") as partial, partial.open("wb") as file:
        yield file


def explained(folder: Path) -> AbstractContextManager[None]:
    """In the block errors of the disk are raised as InputError."""
    return whole_files.explained(
        folder,
        full="free some and start again, finished pictures stay",
        other="make it writable, or name another folder",
    )


def _in_order(shard: Shard, items: list[tuple[str, Item]]) -> list[Item]:
    """Items, each with the id of its row, in the order of the rows."""
    order = {row.id: index for index, row in enumerate(shard.rows)}
    return [item for _, item in sorted(items, key=lambda pair: order[pair[0]])]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member whose header holds nothing of the machine and the time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _column(pyarrow: Any, values: list[Any]) -> Any:
    """Values of one type, where they have one: seeds below 0 and above 2**63 have none in common, and are texts."""
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        return pyarrow.array([None if value is None else str(value) for value in values])


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)
