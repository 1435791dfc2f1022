"""Words on a node while it works: how far, how fast, how long yet, how much memory.

The host shows them on the node that runs, to the client that asked for it. Scripts get none: several take any message
that is not JSON for a picture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import comfy.model_management
import comfy.utils
import psutil
from comfy_api import feature_flags
from comfy_execution.utils import get_executing_context
from server import PromptServer

EVERY = 0.2  # seconds between two texts
EDITOR = "supports_preview_metadata"  # what the editor says of itself when it connects, and scripts do not


def show(text: str) -> None:
    """Put a text on the node that runs, and on the subgraphs that it is in: "4:7" is node 7 of the subgraph node 4.
    Without a server, a running node or an editor nothing is done.
    """
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is None or context is None:
        return
    if not feature_flags.supports_feature(server.sockets_metadata, server.client_id, EDITOR):
        return
    parts = context.node_id.split(":")
    for count in range(len(parts), 0, -1):
        server.send_progress_text(text, ":".join(parts[:count]), server.client_id)


class Steps:
    """Progress of a loop.  unit: what is counted, such as "step"."""

    def __init__(self, total: int, unit: str = "step") -> None:
        self.total, self.unit = total, unit
        self.start = self.shown = time.monotonic()
        self.first: tuple[int, float] | None = None  # the first step warms up and does not count

    def update(self, done: int) -> None:
        """After `done` of all steps. Texts are some time apart; the last step has one, unless it is the only one."""
        now = time.monotonic()
        if self.total == 1:
            return
        if self.first is None:
            self.first = (done, now)
        if done < self.total and now - self.shown < EVERY:
            return
        self.shown = now
        show(self.text(done, now))

    def text(self, done: int, now: float) -> str:
        """Such as "step 12/20, 3.1 it/s, 0:03 left, 5.2 GB", and at the end "20 steps in 0:06, 3.1 it/s, 5.2 GB"."""
        ended = done >= self.total
        parts = [f"{done} {self.unit}s in {clock(now - self.start)}" if ended else f"{self.unit} {done}/{self.total}"]
        assert self.first is not None
        steps, seconds = done - self.first[0], now - self.first[1]
        if steps and seconds > 0.0:
            parts.append(speed(steps / seconds))
            if not ended:
                parts.append(f"{clock((self.total - done) * seconds / steps)} left")
        return ", ".join([*parts, memory()])


def counted(unit: str) -> Callable[[int, int], None]:
    """A callback (done, total) of a loop: it stops where the user wants it, moves the node's bar and shows words."""
    bar, steps = comfy.utils.ProgressBar(1), Steps(1, unit)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        steps.total = total
        steps.update(done)

    return progress


def speed(rate: float) -> str:
    """Steps per second, or seconds per step where those are few."""
    return f"{rate:.1f} it/s" if rate >= 1.0 else f"{1.0 / rate:.1f} s/it"


def clock(seconds: float) -> str:
    """Minutes and seconds, hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory() -> str:
    """Memory in use: of the graphics card by all programs, or of this process where the CPU computes."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cpu(device):
        used = psutil.Process(os.getpid()).memory_info().rss
    else:
        used = comfy.model_management.get_total_memory(device) - comfy.model_management.get_free_memory(device)
    return f"{used / 1e9:.1f} GB"
