"""Pictures per second of the command `batch`, beside a loop that draws and saves one picture after the other.

    python bench/batch_throughput.py [--rows 64] [--size 256] [--steps 20] [--batch 4] [--workers 2] [--rounds 3]

All draw the same rows with the embedded model, on the same CPU, in turn, and all write PNG files. Loading the model is
part of the times of the processes that --workers begins, and of no other. Beside wall clock the CPU time is told: it
shows what batches save, without what the second core does meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from sana_core.batch import Batch, Drawing, Output, Row, draw_batch
from sana_core.batch.in_processes import draw_in_processes
from sana_core.batch.rows import rows_of
from sana_core.pictures.saving import save_picture
from sana_core.pipeline import Request, SanaPipeline, load_pipeline
from sana_core.pipeline.record import picture_record
from sana_core.prompts.entries import Entry

THINGS = ("cat", "dog", "red apple", "banana", "penguin", "house", "car", "star")
RECORD = {"model": "nano"}
ONE = "one by one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 64), ("size", 256), ("steps", 20), ("batch", 4), ("workers", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    args = parser.parse_args()
    pipeline = load_pipeline("nano", device="cpu")
    common = Request("", width=args.size, height=args.size, steps=args.steps)
    prompts = [f"a {THINGS[number % len(THINGS)]} on a table, number {number}" for number in range(args.rows)]
    rows = rows_of([Entry(prompt, "", number) for number, prompt in enumerate(prompts)], common)
    ways = {
        ONE: lambda: one_by_one(pipeline, rows),
        "batch": lambda: in_batches(pipeline, rows, args.batch),
        f"batch, {args.workers} workers": lambda: by_workers(rows, args.batch, args.workers),
    }
    one_by_one(pipeline, rows[:2])  # to warm up
    in_batches(pipeline, rows[: 2 * args.batch], args.batch)
    seconds: dict[str, list[Times]] = {name: [] for name in ways}
    for round_ in range(args.rounds):
        for name in sorted(ways, reverse=bool(round_ % 2)):
            seconds[name].append(timed(ways[name]))
    for name, times in seconds.items():
        rates = [len(rows) / item.wall for item in times]
        say(f"{name}: {statistics.median(rates):.2f} pictures/s, {min(rates):.2f} to {max(rates):.2f}")
    for name, kind in itertools.product(list(ways)[1:], Times._fields):
        pairs = zip(seconds[ONE], seconds[name])
        ratios = [getattr(single, kind) / getattr(other, kind) for single, other in pairs]
        say(f"{name}, ratio, {kind}: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


class Times(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def timed(work: Callable[[], None]) -> Times:
    wall, cpu = time.perf_counter(), cpu_time()
    work()
    return Times(time.perf_counter() - wall, cpu_time() - cpu)


def cpu_time() -> float:
    """Of this process and of those that it has begun and that have ended, in seconds."""
    return sum(os.times()[:4])


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def one_by_one(pipeline: SanaPipeline, rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            run = pipeline.resolve(row.request)
            (picture,) = pipeline(run)
            save_picture(picture, Path(folder, f"{row.id}.png"), picture_record(row.request, run, 0) | RECORD)


def in_batches(pipeline: SanaPipeline, rows: list[Row], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        batch = Batch(rows=rows, output=Output(folder=Path(folder)))
        (done,) = draw_batch(batch, lambda: Drawing(pipeline=pipeline, batch=size, record=RECORD))
        assert done.drawn == len(rows)


def by_workers(rows: list[Row], size: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        batch = Batch(rows=rows, output=Output(folder=Path(folder)), rows_per_shard=-(-len(rows) // (2 * workers)))
        done = draw_in_processes(batch, [functools.partial(loaded, size)] * workers)
        assert sum(item.drawn for item in done) == len(rows)


def loaded(size: int) -> Drawing:
    return Drawing(pipeline=load_pipeline("nano", device="cpu"), batch=size, record=RECORD)


if __name__ == "__main__":
    main()
