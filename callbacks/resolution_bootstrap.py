"""Means with intervals: how far a score, or a difference of two, could have come out on other samples of the kind.

Samples are redrawn with replacement within each stratum, always as many as there are, with a fixed seed; the middle
95 % of the redrawn means are the interval. A difference is paired: the two scores of a sample are redrawn together, so
that what is hard for both budgets does not widen it. Of 100 samples the pick has 66 right and the default 60, 58
of them in common: +0.06, interval [0.00, 0.12]. Two sets of 100 with nothing in common would give [-0.07, 0.20].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and the bounds of its interval, all in the unit of the scores."""

    score: float
    low: float
    high: float
    num_samples: int


def mean_of_strata(scores: Sequence[float], strata: Sequence[str]) -> float:
    """Mean over strata of their means. Exact sums: the same scores in another order give the same number."""
    of: dict[str, list[float]] = {}
    for score, stratum in zip(scores, strata, strict=True):
        of.setdefault(stratum, []).append(score)
    return math.fsum(math.fsum(values) / len(values) for values in of.values()) / len(of)


def estimate(
    scores: Sequence[float],
    strata: Sequence[str],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean over strata with its interval.

    Raises ValueError for too few resamples to leave one outside either end of the interval.
    """
    outside = round(resamples * (1 - confidence) / 2)
    if not 1 <= outside < resamples / 2:
        raise ValueError(f"{resamples} resamples leave {outside} outside each end of a {confidence} interval")
    generator = torch.Generator().manual_seed(seed)
    names = sorted(set(strata))
    means = torch.zeros(resamples, dtype=torch.float64)
    for name in names:
        mine = [score for score, stratum in zip(scores, strata, strict=True) if stratum == name]
        values = torch.tensor(mine, dtype=torch.float64)
        step = max(1, _CELLS_AT_ONCE // len(mine))
        for first in range(0, resamples, step):
            part = means[first : first + step]
            drawn = torch.randint(len(mine), (len(part), len(mine)), generator=generator)
            part += values[drawn].mean(dim=1)
    redrawn = (means / len(names)).sort().values
    low, high = float(redrawn[outside]), float(redrawn[resamples - outside - 1])
    return Estimate(mean_of_strata(scores, strata), low, high, len(scores))
