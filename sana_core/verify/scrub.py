"""Take out of messages what is personal: folders, and the names of the user and of the machine."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..doctor.paths import shown_text
from ..errors import printable

# a path of at least one folder, on Unix or Windows, and the file's name behind it
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[\\/]|~?[\\/]|\\\\)(?:[^\\/:*?\"<>|\n,;()']*[\\/])*")
SHORTEST = 3  # letters of a name that is looked for


def scrubber(paths: Iterable[Path]) -> Callable[[str], str]:
    """`scrubbed` for texts about these files, whose folders may have any names."""
    given = [path for path in paths if str(path.parent) != "."]
    real = [Path(os.path.realpath(path)) for path in given]
    folders = {str(folder) for path in (*given, *real) for folder in (path.parent, path.absolute().parent)}
    known = sorted((f"{folder}{os.sep}" for folder in folders if folder != os.sep), key=len, reverse=True)

    def clean(text: str) -> str:
        for folder in known:
            text = text.replace(folder, "").replace(printable(folder), "")
        return scrubbed(text)

    return clean


def scrubbed(text: str) -> str:
    """The text with file names for paths, and with <user> and <machine> for their names."""
    text = _PATH.sub(lambda found: "" if len(found[0]) > 1 else found[0], shown_text(text))
    for name, stands in ((_user(), "<user>"), (platform.node(), "<machine>")):
        if len(name) >= SHORTEST:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stands, text, flags=re.IGNORECASE)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry of the user, no such module
        return ""
