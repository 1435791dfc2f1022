"""FID and KID from features, by torch-fidelity's own functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import InputError
from .statistics import Statistics

SUBSETS = 100  # of KID, and how many pictures each has: torch-fidelity's defaults
SUBSET_SIZE = 1000
SEED = 2020  # of the draw of subsets, torch-fidelity's


class Kid(NamedTuple):
    mean: float
    std: float


def statistics_of(features: Tensor) -> Statistics:
    """(N, C) -> mean and covariance, in float64. Raises InputError for fewer than two pictures."""
    if len(features) < 2:
        raise InputError(f"FID needs at least 2 pictures on each side, found {len(features)}")
    from torch_fidelity.metric_fid import fid_features_to_statistics

    made = fid_features_to_statistics(features)
    return Statistics(made["mu"].astype(np.float64), made["sigma"].astype(np.float64), len(features))


def fid(pictures: Statistics, reference: Statistics) -> float:
    """The Frechet distance of two normal distributions (arXiv:1706.08500). Raises InputError if sizes differ."""
    if pictures.size != reference.size:
        raise InputError(f"the reference has {reference.size} features, the pictures {pictures.size}: take one --layer")
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    sides = [{"mu": side.mu, "sigma": side.sigma} for side in (pictures, reference)]
    return fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID]


def kid(pictures: Tensor, reference: Tensor, subset_size: int = SUBSET_SIZE) -> Kid:
    """The kernel distance (arXiv:1801.01401), its mean and deviation over random subsets.

    Raises InputError if a side has fewer pictures than a subset.
    """
    fewest = min(len(pictures), len(reference))
    if fewest < subset_size:
        raise InputError(
            f"KID draws subsets of {subset_size} pictures, but one side has {fewest}: pass a smaller --kid-subset-size"
        )
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    settings = {"kid_subsets": SUBSETS, "kid_subset_size": subset_size, "rng_seed": SEED, "verbose": False}
    made = kid_features_to_metric(pictures, reference, **settings)
    return Kid(made[KEY_METRIC_KID_MEAN], made[KEY_METRIC_KID_STD])
