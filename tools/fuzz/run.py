"""Cases in processes of their own, so that one that crashes or hangs is found, named and counted."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from .target import Target, write
from .watch import ACCEPTED, REFUSED, Watch

FORK = multiprocessing.get_context("fork")  # workers begin with everything imported and warm
CHUNK = 500  # cases of one process
HANGS = 30.0  # seconds without an answer


@dataclass
class Failure:
    target: str
    seed: int
    case: int
    verdict: str
    words: str

    def __str__(self) -> str:
        replay = f"python -m tools.fuzz --target {self.target} --seed {self.seed} --case {self.case}"
        return f"{self.verdict}: {self.words}\n    {replay}"


@dataclass
class Result:
    """Of one target. slowest: milliseconds."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.accepted + self.refused + len(self.failures)


@dataclass
class _Worker:
    process: Any
    cases: range  # still to come
    root: Path  # of its files
    answered: float = field(default_factory=time.monotonic)


def fuzz(target: Target, seed: int, cases: range, *, jobs: int = 1, keep: Path | None = None) -> Result:
    """Run these cases of a target. keep: a folder for the files of the cases that fail."""
    warm_up(target)
    result = Result()
    for case, verdict, spent, words in _answers(target, seed, cases, jobs):
        result.slowest = max(result.slowest, spent)
        if verdict == ACCEPTED:
            result.accepted += 1
        elif verdict == REFUSED:
            result.refused += 1
        else:
            result.failures.append(Failure(target.name, seed, case, verdict, words))
            if keep is not None:
                write(target.case(seed, case), keep / f"{target.name}-{seed}-{case}")
    return result


def warm_up(target: Target) -> None:
    """Read every valid input once, so that no case pays for imports."""
    logging.disable(logging.CRITICAL)
    for files in target.seeds():
        with tempfile.TemporaryDirectory() as folder, suppress(Exception):  # some seeds are there to be refused
            write(files, Path(folder))
            target.read(Path(folder))
    logging.disable(logging.NOTSET)


def _answers(target: Target, seed: int, cases: range, jobs: int) -> Iterator[tuple[int, str, float, str]]:
    waiting = [cases[start : start + CHUNK] for start in range(0, len(cases), CHUNK)][::-1]
    workers: dict[Any, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                connection, worker = _start(target, seed, waiting.pop())
                workers[connection] = worker
            for connection in wait(list(workers), timeout=1.0):
                worker = workers[connection]
                try:
                    answer = connection.recv()
                except EOFError:
                    _end(worker)
                    del workers[connection]
                    if worker.cases:
                        yield worker.cases[0], "crash", 0.0, f"the process ended with {worker.process.exitcode}"
                        waiting += [worker.cases[1:]] if len(worker.cases) > 1 else []
                    continue
                worker.cases, worker.answered = worker.cases[1:], time.monotonic()
                yield answer
            for connection, worker in list(workers.items()):
                if time.monotonic() - worker.answered > HANGS:
                    worker.process.kill()
                    _end(worker)
                    del workers[connection]
                    yield worker.cases[0], "hang", HANGS * 1000, f"no answer in {HANGS:g} s"
                    waiting += [worker.cases[1:]] if len(worker.cases) > 1 else []
    finally:  # Ctrl-C, too
        for worker in workers.values():
            worker.process.kill()
            _end(worker)


def _start(target: Target, seed: int, cases: range) -> tuple[Any, _Worker]:
    here, there = FORK.Pipe(duplex=False)
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    process = FORK.Process(target=_work, args=(there, target, seed, cases, root / "case"), daemon=True)
    process.start()
    there.close()
    return here, _Worker(process, cases, root)


def _end(worker: _Worker) -> None:
    worker.process.join()
    shutil.rmtree(worker.root, ignore_errors=True)


def _work(answers: Any, target: Target, seed: int, cases: range, folder: Path) -> None:
    torch.set_num_threads(1)  # those of the parent are lost: a case that counted on them would hang
    faulthandler.disable()  # the parent says what happened
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native libraries print
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    watch = Watch(folder)
    for case in cases:
        files = target.case(seed, case)
        write(files, folder)
        verdict, spent, words = watch.run(target, sum(map(len, files.values())))
        answers.send((case, verdict, spent, words))
        shutil.rmtree(folder, ignore_errors=True)
    answers.close()
    os._exit(0)
