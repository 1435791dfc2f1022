"""Many jobs against one server: `python -m tools.soak [--jobs 1000] [--kills 20] [--seed 0]`.

Two clients ask a real ComfyUI on the CPU for pictures of changing models, sizes, LoRAs, ControlNets and samplers,
cancel some of them and free memory now and then. Each picture has to be the one that the same job gave when it was
drawn alone. Then the server is killed while it works, again and again, and what lies on the disk is examined. Prints a
table and ends with 1 if anything went wrong. Run it by ComfyUI's own Python (see CONTRIBUTING.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the server is that of the tests

import psutil  # noqa: E402
from e2e.server import Server  # noqa: E402
from workflows.installed import serve  # noqa: E402

from sana_core.cli.output import say  # noqa: E402

from .client import DRAWN, Client, Tally, draw  # noqa: E402
from .jobs import Job, drawn  # noqa: E402
from .killed import broken, digests, kill_often  # noqa: E402

CLIENTS = 2
LATE = 100  # jobs after which memory has to stay
GROWTH = 0.02
OPTIONS = ("--cache-classic", "--preview-method", "auto")  # the default cache keeps pictures until memory is short


def soak(server: Server, jobs: list[Job], tally: Tally, count: int, seed: int) -> list[tuple[int, float]]:
    """Draw `count` of the jobs by two clients. Returns (jobs, resident MB), each hundred jobs."""
    process, memory = psutil.Process(server.process.pid), []
    clients = [Client(server, tally, jobs, count // CLIENTS, name, seed + index) for index, name in enumerate("ab")]
    start, due = tally.done, LATE
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        time.sleep(0.2)
        done = tally.done - start
        if done >= due:
            memory.append((done, process.memory_info().rss / 1e6))
            say(f"{done:6} jobs  {memory[-1][1]:8.0f} MB  {dict(tally.ends)}  wrong: {len(tally.wrong)}")
            due += LATE
    return memory


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000, help="how many jobs")
    parser.add_argument("--different", type=int, default=60, help="how many different ones")
    parser.add_argument("--kills", type=int, default=20, help="how often the server is killed")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    args = parser.parse_args(argv)
    tally, jobs, began = Tally(), drawn(Random(args.seed), args.different), time.monotonic()
    with tempfile.TemporaryDirectory() as base, serve(Path(base), options=OPTIONS) as server:
        embedded, models = digests(ROOT / "sana_core" / "nano"), digests(server.base / "models")
        for index, job in enumerate(jobs):
            draw(server, tally, job, f"alone-{index:03}", "alone")
        say(f"{len(jobs)} jobs alone: {dict(tally.ends)}, wrong: {len(tally.wrong)}")
        memory = soak(server, jobs, tally, args.jobs, args.seed)
        seconds = time.monotonic() - began
        wrong = tally.wrong + broken(server.base)[0]
        if digests(server.base / "models") != models:
            wrong.append("a model file has changed")
        if len(memory) > 1 and max(used for _, used in memory[1:]) > memory[0][1] * (1 + GROWTH):
            wrong.append(f"memory has grown by more than {GROWTH:.0%}")
        say(f"{tally.done} jobs in {seconds:.0f} s, {tally.ends[DRAWN]} drawn; wrong: {len(wrong)}")
        killed, cut = kill_often(server, jobs, args.kills, args.seed)
        wrong += killed
        if digests(ROOT / "sana_core" / "nano") != embedded:
            wrong.append("an embedded file has changed")
        say(f"killed {args.kills} times; wrong: {len(killed)}; pictures cut in two by ComfyUI's writer: {len(cut)}")
    for line in wrong:
        say(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
