"""Runs one case and says what came of it: a result, a SanaError, or one of the things that must never happen."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

from sana_core.errors import SanaError

from .target import Target

ACCEPTED, REFUSED = "accepted", "refused"
ALLOWED_SPACE = 1 << 30  # bytes of address space above those of the process at its start
ARENA = 128 << 20  # bytes of address space that the C library reserves for a new thread
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.spawn",
             "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen", "code.__new__",
             "pickle.find_class", "webbrowser.open", "shutil.", "urllib.", "ftplib.", "smtplib.")  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate")
READABLE = tuple(
    str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/proc")
)


class Watch:
    """Sees what a process does while a case runs. One for a process: a hook cannot be taken off again.

    Code that runs shows in Python's audit events: processes, sockets, modules that nothing has imported before, texts
    that are executed, files outside the temporary folder. Memory is the highest resident size, and the highest address
    space where a case raises it. An allocation that the limit of the address space refuses is found in the chain of
    errors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(Path(tempfile.gettempdir()).resolve())
        self.active = False
        self.seen: list[str] = []
        self.known = {name.partition(".")[0] for name in sys.modules} | {"encodings", "PIL"}
        sys.addaudithook(self._hook)
        if STATUS.exists():
            size = self._memory()["VmSize"] + ALLOWED_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    def run(self, target: Target, size: int) -> tuple[str, float, str]:
        """The verdict, milliseconds of computing, and the words of an error."""
        self.seen.clear()
        before = self._memory()
        error: BaseException | None = None
        began = time.process_time()
        self.active = True
        try:
            target.read(self.folder)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as found:  # SystemExit and the panics of Rust libraries too
            error = found
        finally:
            self.active = False
        spent = time.process_time() - began
        after = self._memory(reset=False)
        verdict, words = self._verdict(
            error, target, spent, _grown(before, after, target.reserves), 2 * size + target.room
        )
        return verdict, spent * 1000, words

    def _verdict(
        self, error: BaseException | None, target: Target, spent: float, grown: int, allowed: int
    ) -> tuple[str, str]:
        words = "" if error is None else f"{type(error).__name__}: {error}"[:600]
        if self.seen:
            return "execution", self.seen[0]
        if grown > allowed or (_is_of_memory(error) and not target.reserves):
            return "allocation", f"{grown >> 20} MiB, allowed are {allowed >> 20}. {words}"
        if error is not None and not isinstance(error, (SanaError, *target.errors)):
            return "exception", words
        if spent > target.seconds:
            return "slow", f"{spent:.1f} s. {words}"
        return (ACCEPTED if error is None else REFUSED), words

    def _memory(self, reset: bool = True) -> dict[str, int]:
        """Sizes in bytes by the kernel's names, and the highest resident size starts anew."""
        if not STATUS.exists():
            return {}
        if reset:
            with suppress(OSError):
                CLEAR.write_text("5")
        lines = (line.split() for line in STATUS.read_text().splitlines() if line.startswith("Vm"))
        return {line[0][:-1]: int(line[1]) << 10 for line in lines}

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and (found := self._forbidden(event, arguments)):
            self.seen.append(found)

    def _forbidden(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event.startswith(RUNS_CODE):
            return f"{event} {arguments!r:.200}"
        if event == "import" and arguments[0].partition(".")[0] not in self.known:
            return f"import of {arguments[0]}"
        if event == "exec" and getattr(arguments[0], "co_filename", "").startswith("<string"):
            if sys._getframe(2).f_code is namedtuple.__code__:
                return None
            return "exec of a text"
        if event in CHANGES and not self._is_inside(arguments[0]):
            return f"{event} {arguments[0]!r:.200}"
        if event == "open" and isinstance(arguments[0], (str, bytes)) and not self._is_inside(arguments[0]):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR) if isinstance(arguments[2], int) else False
            if writes or not path.startswith(READABLE):
                return f"open of {path}"
        return None

    def _is_inside(self, path: Any) -> bool:
        is_path = isinstance(path, (str, bytes, os.PathLike))
        return is_path and os.path.realpath(os.fsdecode(path)).startswith(self.place)


def _grown(before: dict[str, int], after: dict[str, int], reserves: bool) -> int:
    """Bytes by which memory rose at most during a case."""
    if not before:
        return 0
    if reserves:
        return after["VmHWM"] - before["VmRSS"]
    space = after["VmPeak"] - before["VmSize"] - ARENA if after["VmPeak"] > before["VmPeak"] else 0
    return max(after["VmHWM"] - before["VmRSS"], space)


def _is_of_memory(error: BaseException | None) -> bool:
    """Was an allocation refused somewhere on the way?"""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
