"""A client of the server that draws jobs, cancels some of them, and checks each picture."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from e2e.server import Server
from PIL import Image

from sana_core.cli.output import tell

from .jobs import REFUSAL, Job

LONGEST = 120.0  # seconds that a job may take
CANCELLED, DRAWN, REFUSED = "cancelled", "drawn", "refused"


def digest(path: Path) -> str:
    """Of the pixels of a picture. Raises OSError for one that is not whole."""
    with Image.open(path) as picture:
        return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


@dataclass
class Tally:
    """What became of the jobs. expected: the pictures of each job, drawn alone."""

    expected: dict[Job, list[str]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def done(self) -> int:
        return sum(self.ends.values())

    def add(self, end: str, problem: str | None) -> None:
        with self.lock:
            self.ends[end] += 1
            if problem:
                self.wrong.append(problem)
                tell(problem)


def ended(server: Server, prompt_id: str, was_cancelled: bool) -> dict[str, Any] | None:
    """The entry of the history, or None for a prompt that was taken out of the queue. Raises TimeoutError."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        found = server.get(f"/history/{prompt_id}")
        if prompt_id in found:
            server.post("/history", {"delete": [prompt_id]})  # ComfyUI keeps ten thousand
            return found[prompt_id]
        if was_cancelled:
            queue = server.get("/queue")
            known = {entry[1] for entry in (*queue["queue_running"], *queue["queue_pending"])}
            if prompt_id not in known and prompt_id not in server.get(f"/history/{prompt_id}"):
                return None
        time.sleep(0.03)
    raise TimeoutError(f"a job did not end within {LONGEST:.0f} s")


def outcome(server: Server, job: Job, prefix: str, prompt_id: str, was_cancelled: bool) -> tuple[str, list[str], str]:
    """How a job ended, its pictures, and what is wrong with that."""
    entry = ended(server, prompt_id, was_cancelled)
    if entry is None:
        return CANCELLED, [], ""
    kinds = {kind: details for kind, details in entry["status"]["messages"]}
    if "execution_interrupted" in kinds:
        return CANCELLED, [], "" if was_cancelled else f"{prefix} was interrupted by another's cancel"
    if "execution_error" in kinds:
        said = kinds["execution_error"]["exception_message"]
        return REFUSED, [], "" if job.is_wrong and REFUSAL in said else f"{prefix} failed: {said.strip()[:300]}"
    if job.is_wrong:
        return DRAWN, [], f"{prefix} was to be refused"
    saved = [entry for output in entry["outputs"].values() for entry in output.get("images", [])]
    names = [entry["filename"] for entry in saved]
    if len(names) != job.batch or not all(name.startswith(f"{prefix}_") for name in names):
        return DRAWN, [], f"{prefix} has the pictures {names}"
    folder = server.base / "output"
    digests = [digest(folder / name) for name in names]
    for name in names:
        (folder / name).unlink()
    return DRAWN, digests, ""


def draw(server: Server, tally: Tally, job: Job, prefix: str, client: str, random: Random | None = None) -> None:
    """Queue a job and see how it ends. random: cancels some of them."""
    prompt_id = server.queue(job.graph(prefix), client)
    cancel = random is not None and random.random() < 0.15
    if cancel:
        assert random is not None
        time.sleep(random.choice((0.0, random.uniform(0.0, 2.0))))
        server.post(f"/api/jobs/{prompt_id}/cancel", {})  # not /interrupt, which may hit the next job
    try:
        end, digests, problem = outcome(server, job, prefix, prompt_id, cancel)
    except (OSError, TimeoutError, KeyError, ValueError) as error:
        end, digests, problem = "lost", [], f"{prefix}: {type(error).__name__}: {error}"
    if end == DRAWN and not problem:
        expected = tally.expected.setdefault(job, digests)
        if digests != expected:
            problem = f"{prefix} differs from the same job drawn alone: {job}"
    tally.add(end, problem)


class Client(threading.Thread):
    """Draws `count` of the jobs, in an order of its own."""

    def __init__(self, server: Server, tally: Tally, jobs: list[Job], count: int, name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.server, self.tally, self.jobs, self.count, self.random = server, tally, jobs, count, Random(seed)

    def run(self) -> None:
        for index in range(self.count):
            job = self.random.choice(self.jobs)
            draw(self.server, self.tally, job, f"{self.name}-{index:05}", self.name, self.random)
            if self.random.random() < 0.03:
                self.server.post("/free", {"unload_models": True, "free_memory": self.random.random() < 0.5})
