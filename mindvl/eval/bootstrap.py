"""How far a benchmark's score could have come out otherwise: a bootstrap over its questions, with a fixed seed.

1000 times as many questions as there are get drawn with replacement; the middle 95 % of the redrawn scores are the
interval. 300 of 400 answers right: 0.75, interval [0.708, 0.792]. It speaks of other questions of the same kind, not
of other prompts or budgets.

Scores are drawn by value, so the interval does not depend on the order of the questions. It never leaves the range of
the scores, which the mirrored ("basic") interval of the routing figures may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 100


@dataclass(frozen=True)
class Interval:
    """Bounds of a score, in its unit."""

    low: float
    high: float
    confidence: float


def bootstrap_interval(
    scores: Sequence[float],
    *,
    strata: Sequence[str] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of independent scores, or of the mean of the strata's means.

    Args:
        strata: a label for each score; they are redrawn within each, and all strata weigh the same (MME's).

    Raises:
        ValueError: without scores, for labels of another number, or too few resamples to leave one outside either end.
    """
    labels = [""] * len(scores) if strata is None else list(strata)
    if not scores or len(labels) != len(scores):
        raise ValueError(f"there are {len(scores)} scores and {len(labels)} labels of strata")
    outside = round(resamples * (1 - confidence) / 2)
    if not 1 <= outside < resamples / 2:
        raise ValueError(f"{resamples} resamples leave {outside} outside each end of a {confidence} interval")
    generator = np.random.default_rng(seed)
    names = sorted(set(labels))
    means = np.zeros(resamples)
    for name in names:
        mine = np.array([score for score, label in zip(scores, labels, strict=True) if label == name], np.float64)
        values, counts = np.unique(mine, return_counts=True)
        for first in range(0, resamples, _AT_ONCE):
            part = means[first : first + _AT_ONCE]
            part += generator.multinomial(len(mine), counts / len(mine), len(part)) @ values / len(mine)
    redrawn = np.sort(means / len(names))
    return Interval(float(redrawn[outside]), float(redrawn[resamples - outside - 1]), confidence)
