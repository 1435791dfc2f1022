"""What all tests share: two fixtures, and a word about the tests that were left out.

`device` runs a test on the CPU and once more on the GPU, where there is one: take it in tests of networks, samplers and
pipelines, and place every tensor on it. A test that needs a second device (offloading, say) asks `DEVICES[-1]`.

`usual_signals` is for tests that send signals of POSIX.

Tests marked `slow` are left out unless they are asked for: `pytest -m slow` runs them alone, `pytest -m ""` runs all.
"""

import signal

import pytest
import torch

DEVICES = ["cpu"]
if torch.accelerator.is_available():
    DEVICES.append(torch.accelerator.current_accelerator().type)  # cuda (ROCm too), xpu or mps


@pytest.fixture(params=DEVICES, scope="session")
def device(request):
    """A device of this machine. Its convolutions calculate in float32, not in TF32, so that results can be compared."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(request.param)


@pytest.fixture
def usual_signals():
    """Signals mean the usual, here and in child processes, also where a run in the background ignores some of them."""
    from sana_core.interrupts import handlers_kept  # tests in ComfyUI know the package by another name

    with handlers_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter, config):
    yield
    left_out = terminalreporter.stats.get("deselected", ())
    if left_out and config.option.markexpr == "not slow":
        terminalreporter.write_line(
            f'{len(left_out)} slow tests were left out: pytest -m slow runs them, -m "" runs all'
        )
