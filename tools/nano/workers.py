"""Data-parallel training on a few CPU cores: processes of one thread each that average their gradients.

One thread per process, because the kernels of these small networks are too short to share between threads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn


def launch(train: Callable[[int, argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run `train(rank, args)` in `args.workers` processes."""
    for leftover in args.work.glob(f"rendezvous-*-{args.workers}"):
        leftover.unlink()
    if args.workers == 1:
        train(0, args)
    else:
        torch.multiprocessing.spawn(train, (args,), nprocs=args.workers)


def start_worker(rank: int, workers: int, rendezvous: Path) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous.absolute()}-{workers}", rank=rank, world_size=workers)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers. All workers must have the same set of gradients."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / dist.get_world_size()).split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def agree(seconds: float) -> float:
    """The clock of worker 0, so that all workers use the same learning rate and stop together."""
    if not dist.is_initialized():
        return seconds
    clock = torch.tensor([seconds], dtype=torch.float64)
    dist.broadcast(clock, 0)
    return clock.item()
