"""NVIDIA's NVILA-Lite-2B-Verifier, in a process of its own: its code needs transformers 4.46 (`nvila_process.py`)."""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..errors import InputError, SanaError
from .verdict import Verdict

PYTHON = "SANA_VERIFIER_PYTHON"  # of the environment: the Python of the verifier
SCRIPT = Path(__file__).with_name("nvila_process.py")
LOADING, ANSWERING = 900.0, 120.0  # seconds to wait
# Verbatim of NVlabs/Sana, tools/inference_scaling/nvila_sana_pick.py: the verifier was trained with it.
QUESTION = (
    "You are an AI assistant specializing in image analysis and ranking. Your task is to analyze and compare image "
    "based on how well they match the given prompt.\nThe given prompt is:{prompt}. Please consider the prompt and the "
    "image to make a decision and response directly with 'yes' or 'no'.\n"
)
ANSWERS = {"yes": True, "no": False}


class VerifierError(SanaError):
    """The verifier's process did not answer, or said something else than was asked."""


class NvilaScorer:
    """Verdicts of the verifier. python: of an environment with transformers 4.46; by default $SANA_VERIFIER_PYTHON.

    start: the process starts here, else at the first picture. It starts again when it is needed after its end. `close`
    ends it, which gives back the card's memory. loading, answering: seconds to wait for it. Raises InputError if it
    cannot start.
    """

    def __init__(
        self,
        folder: str | Path,
        python: str | Path | None = None,
        *,
        start: bool = True,
        loading: float = LOADING,
        answering: float = ANSWERING,
        script: Path = SCRIPT,
    ) -> None:
        chosen = python or os.environ.get(PYTHON)
        if not chosen:
            raise InputError(
                f"NVILA needs a Python of its own, with transformers 4.46: name it with --verifier-python or ${PYTHON}"
            )
        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} has no config.json: expected the folder of NVILA-Lite-2B-Verifier")
        self.command = [str(chosen), "-u", str(script), str(folder)]
        self.loading, self.answering = loading, answering
        self._process: _Process | None = None
        try:
            if start:
                self._started()
        except VerifierError as error:
            raise InputError(str(error)) from error

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Verdict]:
        return [self._verdict(picture, prompt) for picture, prompt in zip(pictures, prompts)]

    @property
    def runs(self) -> bool:
        """Has the process been started?"""
        return self._process is not None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _started(self) -> _Process:
        if self._process is None:
            process = _Process(self.command)
            try:
                said = process.answer(self.loading)
                if said.get("ready") is not True:
                    raise VerifierError(f"the verifier cannot be loaded ({said.get('error', said)})")
            except BaseException:
                process.end()
                raise
            self._process = process
        return self._process

    def _verdict(self, picture: Image.Image, prompt: str) -> Verdict:
        process, file = self._started(), io.BytesIO()
        picture.convert("RGB").save(file, "PNG", compress_level=1)
        question = {"picture": base64.b64encode(file.getvalue()).decode(), "text": QUESTION.format(prompt=prompt)}
        try:
            process.ask(question)
            said = process.answer(self.answering)
        except BaseException:  # a late answer would be taken for that to the next question
            self.close()
            raise
        return _verdict(said)


def _verdict(said: dict[str, Any]) -> Verdict:
    if "error" in said:
        raise VerifierError(f"the verifier failed ({said['error']})")
    answer = str(said.get("answer")).strip().lower().rstrip(".")
    try:
        return Verdict(answer=ANSWERS[answer], yes=float(said["yes"]), no=float(said["no"]))
    except (KeyError, TypeError, ValueError) as error:
        raise VerifierError(f"the verifier answered {said!r:.120}, expected yes or no with their logits") from error


class _Process:
    """Lines of JSON to and from a process."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            said = error.strerror or error
            raise VerifierError(f"the verifier's Python {command[0]} cannot be started ({said})") from error
        self.end = weakref.finalize(self, _end, self.process)
        self.lines: queue.Queue[str | None] = queue.Queue()  # None: its output has ended
        self.errors: deque[str] = deque(maxlen=1)  # its last words on stderr
        reader = threading.Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True)
        self.listener = threading.Thread(target=_listen, args=(self.process.stderr, self.errors), daemon=True)
        reader.start()
        self.listener.start()

    def ask(self, question: dict[str, Any]) -> None:
        """In a thread: a process that hangs takes no picture from its pipe. Whether it arrives, `answer` tells."""
        line = json.dumps(question) + "\n"
        threading.Thread(target=_write, args=(self.process.stdin, line), daemon=True).start()

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line. Raises VerifierError if none comes in time, and for one that is no JSON object."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty as error:
            raise VerifierError(f"the verifier did not answer in {seconds:g} s") from error
        if line is None:
            raise VerifierError(self._ended())
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise VerifierError(f"the verifier said {line.strip()!r:.80}, expected a JSON object")
        return said

    def _ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self.listener.join(1.0)
        said = f": {self.errors[-1]}" if self.errors else ""
        return f"the verifier's process has ended, exit code {self.process.poll()}{said}"


def _write(stream: IO[str], line: str) -> None:
    with suppress(OSError, ValueError):  # its end, which `answer` sees
        stream.write(line)
        stream.flush()


def _read(stream: Iterable[str], lines: queue.Queue[str | None]) -> None:
    with suppress(ValueError):  # closed meanwhile
        for line in stream:
            lines.put(line)
    lines.put(None)


def _listen(stream: Iterable[str], errors: deque[str]) -> None:
    with suppress(ValueError):
        for line in stream:
            if line.strip():
                errors.append(line.strip())


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(OSError, ValueError):  # the other two end with the threads that read them
            process.stdin.close()
