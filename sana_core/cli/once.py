"""What the processes of one training say alike is said by one of them, whichever comes first."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from functools import cache
from typing import Any

WAIT = timedelta(seconds=5)
FAILED = "failed"


def first_to_say(text: str) -> bool:
    """Has no other process said this? True where there is one process, or where the others cannot be asked."""
    return _count(hashlib.blake2b(text.encode("utf-8", "replace")).hexdigest()) <= 1


def first_to_fail() -> bool:
    """Has no other process failed? If one has, an error of the exchange with it is no news."""
    return _count(FAILED) <= 1


def _count(key: str) -> int:
    """How often the processes asked for this key; 0 where they cannot be asked."""
    try:
        found = _store()
        return 0 if found is None else found.add(f"sana/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{key}", 1)
    except (RuntimeError, OSError):  # who kept the store has ended
        return 0


@cache
def _store() -> Any:
    """Where the processes that `torchrun` or `accelerate launch` started find each other. None: there is none."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if os.environ.get("WORLD_SIZE", "1") == "1" or not address or not port.isdecimal():
        return None
    try:
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        return TCPStore(address, int(port), is_master=False, timeout=WAIT)
    except (ImportError, RuntimeError, OSError):
        return None
