"""The mean and the covariance of features: all that FID needs of a set of pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.new_file import new_file
from ..errors import InputError

LARGEST = 256 << 20  # bytes of a file; 2048 features take 32 MiB
NAMES = ("mu", "sigma")  # as pytorch-fid calls them in its .npz files


@dataclass(frozen=True)
class Statistics:
    """mu: (C,), sigma: (C, C), both float64. count: of pictures, None if the file does not say."""

    mu: np.ndarray
    sigma: np.ndarray
    count: int | None = None

    @property
    def size(self) -> int:
        return len(self.mu)


def save_statistics(statistics: Statistics, path: Path, *, overwrite: bool = False) -> None:
    """Write mu, sigma and count as .npz, which pytorch-fid reads too. Raises InputError."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {"mu": statistics.mu, "sigma": statistics.sigma}
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
    np.savez(content, **arrays)
    with new_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(content.getvalue())


def read_statistics(path: Path) -> Statistics:
    """mu and sigma of an .npz, as pytorch-fid and `save_statistics` write them. Nothing in it is run.

    Raises InputError for what is no such file, and for numbers that do not fit together or are not finite.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has more than {LARGEST >> 20} MiB: expected an .npz with mu and sigma")
        with np.load(path, allow_pickle=False) as arrays:
            mu, sigma = (_floats(arrays[name]) for name in NAMES)
            count = int(arrays["count"]) if "count" in arrays else None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): expected an .npz") from error
    except KeyError as error:
        raise InputError(f"{path} has no mu and sigma: expected statistics as pytorch-fid writes them") from error
    except Exception as error:  # zipfile and numpy raise many types for damaged files
        raise InputError(
            f"{path} is no whole .npz of statistics ({error}): make it again (--save-statistics)"
        ) from error
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise InputError(f"{path}: mu {mu.shape} and sigma {sigma.shape} do not fit together: expected (C,) and (C, C)")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(f"{path} has numbers that are not finite: make it again (--save-statistics)")
    return Statistics(mu, sigma, count)


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{values.dtype} in the place of numbers")
    return values.astype(np.float64)
