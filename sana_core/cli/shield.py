"""The options --shield, --shield-threshold and --shield-action: prompts are checked before anything is drawn."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError
from ..pipeline.request import Request
from ..safety import ACTIONS, THRESHOLD, PromptCheck, load_shield
from . import arguments
from .progress import bar

Screen = Callable[[Sequence[Request]], list[Request]]


def add_shield(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--shield",
        type=Path,
        metavar="FILE",
        help="ShieldGemma-2B, file or folder: check the prompts first (default: no check)",
    )
    add(
        "--shield-threshold",
        type=arguments.probability,
        metavar="NUMBER",
        help=f"the probability, 0 to 1, above which a prompt is against the policy (default: {THRESHOLD})",
    )
    add(
        "--shield-action",
        choices=ACTIONS,
        help="refuse: it is not drawn; replace: a red heart is drawn instead (default: refuse)",
    )


def check_shield(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    if args.shield is None and (args.shield_threshold is not None or args.shield_action is not None):
        raise InputError("--shield-threshold and --shield-action are about the check of prompts: give --shield")
    if args.shield is not None and not args.shield.exists():
        raise InputError(f"--shield {args.shield}: there is no such file or folder: name that of ShieldGemma-2B")


def load_check(args: argparse.Namespace) -> PromptCheck | None:
    """The check with ShieldGemma, None without --shield. Raises InputError, CheckpointError."""
    check_shield(args)
    if args.shield is None:
        return None
    given = {"threshold": args.shield_threshold, "action": args.shield_action}
    settings = {name: value for name, value in given.items() if value is not None}
    return PromptCheck(shield=load_shield(args.shield, device=args.device), **settings)


def chosen_screen(args: argparse.Namespace) -> Screen:
    """What lets requests pass, refuses or replaces them. It holds ShieldGemma as long as it lives; without --shield it
    is `list`. Raises InputError, CheckpointError.
    """
    check = load_check(args)
    if check is None:
        return list

    def screen(requests: Sequence[Request]) -> list[Request]:
        with bar("checking prompts", quiet=args.quiet) as show:
            return check.applied(requests, show)

    return screen
