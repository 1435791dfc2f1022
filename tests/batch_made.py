"""Rows, and what draws them without a network, in other processes too."""

import io
import logging
import os
import signal
import tarfile
import threading
import time

from PIL import Image

from sana_core.batch import Drawn, Failed, Row
from sana_core.batch.rows import rows_of
from sana_core.errors import CheckpointError
from sana_core.prompts.entries import Entry

RECORD = {
    "negative_prompt": "", "steps": 1, "sampler": "s", "guidance_scale": 1, "width": 8, "height": 8, "model": "m",
    "shift": 1, "batch_size": 1, "batch_index": 0,
}  # fmt: skip


def rows(*values, **settings):
    entries = [Entry(value, f"row {number}", number) for number, value in enumerate(values, 1)]
    return rows_of(entries, **settings)


def some_rows(count):
    return rows(*(f"prompt {number}" for number in range(count)))


def draw(asked):
    """A picture whose colour is the seed's."""
    for row in asked:
        yield drawn(row)


def drawn(row: Row):
    seed = row.request.seed
    picture = Image.new("RGB", (8, 8), (seed % 256, seed // 256 % 256, seed // 65536 % 256))
    return Drawn(row, picture, {"id": row.id, "prompt": row.request.prompt, "seed": seed, **RECORD})


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()


def contents(folder):
    """Every file that a batch has left, by name."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".locks")}


def plain():
    return draw


def noting(folder):
    """Draws slowly, and notes by which process."""

    def noted(rows):
        (folder / str(os.getpid())).touch()
        for row in rows:
            time.sleep(0.02)
            yield drawn(row)

    return noted


def broken():
    raise CheckpointError("there is no such model")


def faulty():
    raise KeyError("a fault of ours")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def loudly():
    """Each second row fails, of the others something is logged by a thread."""

    def drawing(asked):
        for row in asked:
            if int(row.id) % 2:
                thread = threading.Thread(target=logging.getLogger("sana").info, args=("a word of %s", row.id))
                thread.start()
                thread.join()
                yield drawn(row)
            else:
                yield Failed(row, "it rained")

    return drawing
