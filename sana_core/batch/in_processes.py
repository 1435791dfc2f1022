"""A batch drawn by several processes of this machine, each of which holds a pipeline: one for each GPU, or on a CPU.

Each process gets its shards one by one through a pipe, so that one that is killed blocks no other. What a process does
with a shard is what a run without it does.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch

from ..errors import InputError, SanaError
from ..interrupts import Ended, signals_as_errors
from ..shortage import out_of_memory
from .draw import Drawn, Failed
from .output import Shard
from .run import Batch
from .worker import Done, Load, Worker, is_last

log = logging.getLogger("sana")
Told = Callable[[Failed | int], object]


class Logged(NamedTuple):
    """What a process logs, to be logged by the first one."""

    level: int
    message: str


def draw_in_processes(batch: Batch, loads: Sequence[Load], told: Told | None = None) -> Iterator[Done]:
    """Draw what is left of a batch, and yield what became of each shard.

    loads: for each process what makes that which draws; it can be pickled. The threads that PyTorch has here are shared
    by the processes. told: is called with each row that failed, and with a number of rows whenever so many others are
    done. What the processes log under the name "sana" is logged here. Raises InputError, and what a process raises.
    """
    waiting = deque(batch.prepared())
    count = min(len(loads), len(waiting))
    threads = max(1, torch.get_num_threads() // max(1, count))
    workers = [Process(batch.worker(load), threads) for load in loads[:count]]
    busy: dict[Any, Process] = {}
    try:
        for worker in workers:
            worker.pipe.send(waiting.popleft())
            busy[worker.pipe] = worker
        while busy:
            for pipe in wait(list(busy)):
                said = busy[pipe].said()
                if isinstance(said, Logged):
                    log.log(said.level, "%s", said.message)
                elif isinstance(said, Done):
                    if waiting:
                        busy[pipe].pipe.send(waiting.popleft())
                    else:
                        del busy[pipe]
                    yield said
                elif told is not None:
                    told(said)
    finally:
        for worker in workers:
            worker.process.terminate()  # it removes unfinished files
        for worker in workers:
            worker.end()


class Process:
    """A process that draws the shards which are sent into its pipe."""

    def __init__(self, worker: Worker, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork has no GPU
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(worker, theirs, threads, log.level), daemon=True)
        with _ctrl_c_waits():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def said(self) -> Done | Failed | Logged | int:
        """What became of its shard or of a row, rows that are done, or what it logs. Raises what the process raised."""
        try:
            said = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            memory = ", perhaps for want of memory: take fewer --workers" if code < 0 else ""  # a signal
            raise InputError(
                f"a process that draws has ended with code {code}{memory}. Start again: what is finished stays"
            ) from None
        if isinstance(said, Exception):
            raise said
        return said

    def end(self) -> None:
        self.pipe.close()
        self.process.join()


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """In the block Ctrl-C waits. A process that starts there is not ended by it, even while it still imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its own start would let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Channel(logging.Handler):
    """The end of the pipe where a process gets its shards and tells what becomes of them, from any of its threads."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.pipe = pipe

    def receive(self) -> Shard:
        """Raises Ended if the first process has ended."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            raise Ended(signal.SIGTERM) from None

    def send(self, said: Done | Failed | Logged | int | Exception) -> None:
        """Raises Ended if the first process has ended."""
        assert self.lock is not None
        try:
            with self.lock:
                self.pipe.send(said)
        except OSError:  # an error of the disk, as a shard would take it
            raise Ended(signal.SIGTERM) from None

    def tell(self, item: Drawn | Failed) -> None:
        """What became of a row; of its pictures the last one counts."""
        if is_last(item):
            self.send(item if isinstance(item, Failed) else 1)

    def emit(self, record: logging.LogRecord) -> None:
        self.send(Logged(record.levelno, record.getMessage()))


def _work(worker: Worker, pipe: Any, threads: int, level: int) -> None:
    channel = Channel(pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    torch.set_num_threads(threads)
    log.setLevel(level)
    log.addHandler(channel)
    log.propagate = False
    with suppress(Ended), signals_as_errors():  # the first process has ended, or wants us to end
        try:
            while True:
                channel.send(worker(channel.receive(), channel.tell))
        except Exception as error:
            if not isinstance(error, SanaError) and not out_of_memory(error):
                traceback.print_exc()  # of a fault of ours, which the first process cannot show
            channel.send(error)
