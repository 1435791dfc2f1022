"""A batch on a Ray cluster: shards are handed to workers, each of which holds a pipeline.

Ray Data keeps the workers: one that is lost is replaced, and its shard goes to another. What a worker does with a shard
is what a run without Ray does, so a lost one leaves nothing half done. All machines see the output folder, the
models and the pack at the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, SanaError
from ..interrupts import handlers_kept
from .output import Shard
from .run import Batch
from .worker import Done, Load, Worker

LOCAL = "local"
ANSWER = 30.0  # seconds that a cluster has to answer
ROOT = Path(__file__).parents[2]  # of the pack, from which workers import it


def check_ray() -> Any:
    """Ray, with its data library. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data itself makes its workers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(f'Ray is not installed ({error}): pip install "ray[data]"') from error
    return ray


def draw_on_ray(batch: Batch, load: Load, address: str = LOCAL, workers: int | None = None) -> Iterator[Done]:
    """Draw what is left of a batch on the cluster at `address`, and yield what became of each shard.

    address: "local" for a cluster of this machine alone that ends with the run, "auto" for the one that runs here, or
    ray://host:10001. workers: how many pipelines; None: one for each GPU of the cluster, without GPUs one for each
    machine. load: makes what draws, in each worker. Raises InputError.
    """
    if workers is not None and workers < 1:
        raise InputError(f"{workers} Ray workers, expected at least 1")
    ray = check_ray()
    pending = batch.prepared()
    if not pending:
        return
    try:
        _reach(address)
        with handlers_kept():  # Ray's own for SIGTERM ends the program before anything is tidied up
            ray.init(**_cluster(address, workers))
    except Exception as error:  # of many types: no such host, a version that does not fit, no room for its store
        raise InputError(f"no Ray cluster at {address} ({error}): start one with ray start --head") from error
    try:
        yield from _drawn(ray, batch, load, pending, workers)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError if nobody listens at host:port, for which Ray itself would wait without an end."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()


def _cluster(address: str, workers: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    settings["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    if address == LOCAL:
        settings |= {"num_cpus": max(os.cpu_count() or 1, (workers or 1) + 1), "include_dashboard": False}
    return settings


def _drawn(ray: Any, batch: Batch, load: Load, pending: list[Shard], workers: int | None) -> Iterator[Done]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = min(workers or gpus or len(ray.nodes()), len(pending))
    shards = ray.data.from_items(
        [{"shard": pickle.dumps(shard)} for shard in pending], override_num_blocks=len(pending)
    )
    done = shards.map_batches(
        RayWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(batch.worker(load), os.getcwd(), torch.get_num_threads()),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    for row in done.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield Done(*pickle.loads(row["done"]))


class RayWorker:
    """Draws shards on a machine of the cluster.

    folder: where the run was started. threads: of its process, on which the last digits of a picture depend on a CPU.
    """

    def __init__(self, draw: Worker, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.draw, self.folder = draw, folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        done, said = Done(), ""
        try:
            os.chdir(self.folder)  # which relative paths begin with
            done = self.draw(pickle.loads(batch["shard"][0]))
        except SanaError as error:  # Ray would wrap it in pages of its own
            said = str(error)
        except OSError as error:
            said = f"a worker on {platform.node()}: {error}: all machines need the same folders"
        return {"done": [pickle.dumps(tuple(done))], "error": [said]}
