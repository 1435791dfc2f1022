"""Seeds made of a base seed and names, so that a picture depends on them and on nothing else."""

from __future__ import annotations

import hashlib

BITS = 32  # which every tool takes


def derived_seed(base: int, *names: str | int) -> int:
    """The seed of what the names stand for: the first 32 bits of SHA-256 over all of them.

    The same on every machine, whatever else is drawn. A number and its decimal text are the same name.
    """
    text = "\0".join(map(str, (base, *names)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[: BITS // 8], "big")
