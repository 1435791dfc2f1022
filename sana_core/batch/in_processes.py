"""A batch drawn by several processes of this machine, each of which holds a pipeline: one for each GPU, or on a CPU.

Each process gets its shards one by one through a pipe, so that one that is killed blocks no other. What a process does
with a shard is what a run without it does.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..errors import InputError, SanaError
from ..interrupts import Ended, signals_as_errors
from ..shortage import out_of_memory
from .output import Shard
from .run import Batch
from .worker import Done, Load, Worker, is_last

Rows = Callable[[int], object]


def draw_in_processes(batch: Batch, loads: Sequence[Load], told: Rows | None = None) -> Iterator[Done]:
    """Draw what is left of a batch, and yield what became of each shard.

    loads: for each process what makes that which draws; it can be pickled. The threads that PyTorch has here are shared
    by the processes. told: is called with a number of rows whenever so many more are done. Raises InputError, and what
    a process raises.
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
                if isinstance(said, int):
                    if told is not None:
                        told(said)
                    continue
                if waiting:
                    busy[pipe].pipe.send(waiting.popleft())
                else:
                    del busy[pipe]
                yield said
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
        self.process = context.Process(target=_work, args=(worker, theirs, threads), daemon=True)
        with _ctrl_c_waits():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def said(self) -> Done | int:
        """What became of its shard, or a number of rows that are done. Raises what the process has raised."""
        try:
            said = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise InputError(
                f"a process that draws has ended (code {self.process.exitcode}), perhaps for want of memory: start "
                "again with fewer --workers, what is finished stays"
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


def _work(worker: Worker, pipe: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    torch.set_num_threads(threads)
    try:
        with signals_as_errors():
            _draw(worker, pipe)
    except Ended:
        return  # the first process has ended, or wants us to end


def _draw(worker: Worker, pipe: Connection) -> None:
    try:
        while True:
            try:
                shard: Shard = pipe.recv()
            except (EOFError, ConnectionError):
                return
            _say(pipe, worker(shard, lambda item: _say(pipe, int(is_last(item)))))
    except Exception as error:
        if not isinstance(error, SanaError) and not out_of_memory(error):
            traceback.print_exc()  # of a fault of ours, which the first process cannot show
        _say(pipe, error)


def _say(pipe: Connection, said: Done | int | Exception) -> None:
    """Raises Ended if nobody listens any more."""
    try:
        pipe.send(said)
    except OSError:  # an error of the disk, as a shard would take it
        raise Ended(signal.SIGTERM) from None
