"""The commands, and what they all share: how one is chosen, and how errors end it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import SanaError
from ..pipeline.memory import out_of_memory
from .arguments import Command, Parser
from .draw import DRAW
from .output import log_on_stderr, tell
from .quantize import QUANTIZE

COMMANDS: dict[str, Command] = {"draw": DRAW, "quantize": QUANTIZE}
DEFAULT = "draw"
PROGRAM = "python -m sana_core"
INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: the first argument if it is the name of one, else `draw` with all arguments.

    Returns the exit code: 0; 2 after one line on stderr; 130 after Ctrl-C.
    """
    try:
        name, args = _parsed(list(sys.argv[1:] if argv is None else argv))
        with log_on_stderr(logging.WARNING if getattr(args, "quiet", False) else logging.INFO):
            COMMANDS[name].run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (SanaError, OSError) as error:
        tell(f"sana: error: {error}")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0] or type(error).__name__
        tell(
            f"sana: error: out of memory ({first_line}): with --offload one network at a time is on the GPU; "
            "or draw a smaller --size or --batch, or choose --dtype bfloat16"
        )
        return 2
    return 0


def _parsed(argv: list[str]) -> tuple[str, argparse.Namespace]:
    if argv and argv[0] in COMMANDS:
        name, parser = argv[0], Parser(prog=f"{PROGRAM} {argv[0]}", description=COMMANDS[argv[0]].summary)
        argv = argv[1:]
    else:
        name, parser = DEFAULT, Parser(prog=PROGRAM, usage=_usage(), description=COMMANDS[DEFAULT].summary)
        parser.add_argument("--version", action="version", version=f"sana-native {__version__}")
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = _epilog()
    COMMANDS[name].add_options(parser)
    return name, parser.parse_args(argv)


def _usage() -> str:
    return f"{PROGRAM} [COMMAND] [options] [prompt]"


def _epilog() -> str:
    """The commands, and how a prompt is told from one."""
    lines = [f"  {name:12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"commands ({PROGRAM} COMMAND --help lists the options of each; {DEFAULT} is the default):",
            *lines,
            "",
            "A first argument that is exactly the name of a command is that command. To draw such a word, name the",
            f'command too: {PROGRAM} {DEFAULT} "{DEFAULT}". Any other first argument is an option or the prompt.',
        ]
    )
