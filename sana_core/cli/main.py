"""The commands, and what they all share: how one is chosen, and how errors end it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..interrupts import INTERRUPTED, signals_as_errors
from .arguments import Command, Parser
from .batch import BATCH
from .benchmark import BENCHMARK
from .doctor import DOCTOR
from .draw import DRAW
from .evaluate import EVALUATE
from .failures import explained
from .grow import GROW
from .once import first_to_fail, first_to_say
from .output import fail, log_on_stderr
from .prune import PRUNE
from .quantize import QUANTIZE
from .train import TRAIN
from .verify import VERIFY

COMMANDS: dict[str, Command] = {
    "draw": DRAW,
    "batch": BATCH,
    "quantize": QUANTIZE,
    "train": TRAIN,
    "grow": GROW,
    "prune": PRUNE,
    "doctor": DOCTOR,
    "verify": VERIFY,
    "evaluate": EVALUATE,
    "benchmark": BENCHMARK,
}
DEFAULT = "draw"
PROGRAM = "python -m sana_core"
NAMES = (
    "A first argument that is exactly the name of a command is that command. To draw such a word, name the",
    f'command too: {PROGRAM} {DEFAULT} "{DEFAULT}". Any other first argument is an option or the prompt.',
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: the first argument if it is the name of one, else `draw` with all arguments.

    Returns the exit code: 0, or the command's own; 2 after one line on stderr; 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with signals_as_errors():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt as ended:
        return getattr(ended, "code", INTERRUPTED)


def _run(argv: list[str]) -> int:
    command, args = _parsed(argv)
    try:
        level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
        with log_on_stderr(level, first_to_say if command.together else None):
            return command.run(args) or 0
    except Exception as error:
        message = explained(error, command.memory)
        is_news = first_to_fail() if command.together else True
        if message is None and is_news:
            raise
        if message is not None and not (command.together and not first_to_say(message)):
            fail(message, as_json="--json" in argv)
        return 2


def _parsed(argv: list[str]) -> tuple[Command, argparse.Namespace]:
    named = bool(argv) and argv[0] in COMMANDS
    name = argv[0] if named else DEFAULT
    command = COMMANDS[name]
    parser = Parser(
        prog=f"{PROGRAM} {name}" if named else PROGRAM,
        description=command.summary,
        epilog=_epilog(command, named),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.usage = None if named else f"{PROGRAM} [COMMAND] [options] [prompt]"
    parser.as_json, parser.together = "--json" in argv, command.together
    parser.takes_prompt = name == DEFAULT
    if not named:
        parser.add_argument("--version", action="version", version=f"sana-native {__version__}")
    command.add_options(parser)
    return command, parser.parse_args(argv[1:] if named else argv)


def _epilog(command: Command, named: bool) -> str:
    """Examples, and without the name of a command all commands."""
    lines = ["examples:", *(f"  {PROGRAM} {example}" for example in command.examples)]
    if not named:
        lines += ["", f"commands ({PROGRAM} COMMAND --help lists the options of each; {DEFAULT} is the default):"]
        lines += [f"  {name:12}{command.summary}" for name, command in COMMANDS.items()]
        lines += ["", *NAMES]
    return "\n".join(lines)
