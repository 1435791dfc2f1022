"""Several threads, one pipeline or two: each picture is the one that is drawn alone, to the bit."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from sana_core.errors import InputError
from sana_core.kernels.choice import CHOSEN
from sana_core.pipeline import Request, SanaPipeline, load_pipeline
from sana_core.pipeline.offload import on_device
from sana_core.transformer.replay import Replay

RUNS: list[dict[str, Any]] = [
    {"prompt": "a red apple", "width": 64, "height": 64, "seed": 1},
    {"prompt": "a penguin on a snowy mountain", "width": 96, "height": 64, "seed": 2, "pag_scale": 2.0},
    {"prompt": "", "width": 64, "height": 128, "seed": 3, "batch_size": 2, "guidance_scale": 1.0},
]


def draw(pipeline: SanaPipeline, run: dict[str, Any]) -> Tensor:
    found = pipeline(**{"steps": 3, **run}, output="tensor")
    assert isinstance(found, Tensor)
    return found


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each of these returns, run in threads that begin together."""
    ready = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        ready.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(run, work) for work in works]]


def world() -> dict[str, Any]:
    """What belongs to the process."""
    loggers = logging.getLogger(), logging.getLogger("sana")
    return {
        "kernels": [operation.off for operation in vars(CHOSEN).values()],
        "graphs": Replay.off,
        "precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist(),
        "warnings": list(warnings.filters),
        "logging": [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers],
        "signals": [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.fixture(scope="module")
def nano() -> SanaPipeline:
    return load_pipeline("nano", device="cpu", fast="off")


def test_several_threads_and_one_pipeline(nano):
    expected, before = [draw(nano, run) for run in RUNS], world()
    found = at_once(*(lambda run=run: draw(nano, run) for run in RUNS))
    assert all(torch.equal(a, b) for a, b in zip(found, expected)) and world() == before


def test_two_pipelines_of_other_models_types_and_switches(nano):
    def other() -> SanaPipeline:
        return load_pipeline("nano-sprint", device="cpu", dtype=torch.bfloat16, fast="auto")

    expected, before = (draw(nano, RUNS[0]), draw(other(), RUNS[0])), world()
    found = at_once(lambda: draw(load_pipeline("nano", device="cpu"), RUNS[0]), lambda: draw(other(), RUNS[0]))
    assert all(torch.equal(a, b) for a, b in zip(found, expected)) and world() == before


def test_networks_that_take_turns_have_one_at_a_time(monkeypatch):
    """As between a CPU and a GPU, where each turn has a copy of the weights."""
    to = torch.Tensor.to
    copy = lambda tensor, *args, **more: tensor.clone() if args == (torch.device("cpu"),) else to(tensor, *args, **more)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", copy)
    pipeline = load_pipeline("nano", device="cpu", offload=True)
    networks = (pipeline.transformer, pipeline.text_encoder, pipeline.autoencoder)
    homes = [parameter.data_ptr() for network in networks for parameter in network.parameters()]
    expected = [draw(pipeline, run) for run in RUNS]
    found = at_once(*(lambda run=run: draw(pipeline, run) for run in RUNS))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert [parameter.data_ptr() for network in networks for parameter in network.parameters()] == homes


def test_a_turn_waits_for_the_one_before():
    network, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    seen: list[str] = []
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with on_device(torch.device("cpu"), network, other):
            inside.set()
            go.wait(10)
            seen.append("first")

    def second() -> None:
        inside.wait(10)
        threading.Timer(0.1, go.set).start()
        with on_device(torch.device("cpu"), other, network):
            seen.append("second")

    at_once(first, second)
    assert seen == ["first", "second"]


def test_a_stream_that_is_stopped_stops_no_other(nano):
    requests = [Request(f"a penguin {seed}", width=64, height=64, steps=3, seed=seed) for seed in range(3)]
    expected = [result.latent for result in nano.stream(requests)]

    def stop(step: int, *_: Any) -> None:
        if step == 1:
            raise KeyboardInterrupt

    def stopped() -> str:
        with pytest.raises(KeyboardInterrupt):
            list(nano.stream(requests, callback=stop))
        return "stopped"

    def refused() -> str:
        with pytest.raises(InputError):
            list(nano.stream([Request("a penguin", width=65, height=64)]))
        return "refused"

    *ended, found = at_once(stopped, refused, lambda: [result.latent for result in nano.stream(requests)])
    assert ended == ["stopped", "refused"] and all(torch.equal(a, b) for a, b in zip(found, expected))
