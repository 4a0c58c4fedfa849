"""Confidence intervals over samples: the basic bootstrap, as the paper's figures use it.

Samples are drawn again with replacement, as many as there are; the statistic of the redrawn corpus scatters around the
measured one, theta, as theta does around the truth. So the interval is theta mirrored at its quantiles:

    [2 theta - q(0.975), 2 theta - q(0.025)]

Statistics here are functions of sums over samples (histograms, hits), so a redrawn corpus is a weighted sum of samples
and all of them are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mindvl.routing.cache import HitCurve
from mindvl.routing.inputs import RouterIds, read_routing
from mindvl.routing.segments import LEVELS, best_segment_router
from mindvl.routing.windows import window_histograms

RESAMPLES_AT_ONCE = 50
SAMPLES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate and the bounds of its interval, all of one shape."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def basic_bootstrap(
    per_sample: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of `statistic` of the sum over samples.

    Args:
        per_sample: (samples, ...) what adds up; whole numbers stay exact below 2**53.
        statistic: maps sums (batch, ...) float64 to values (batch, ...).
        resamples: redrawn corpora. Quantiles are the values at places round(resamples * (1 - confidence) / 2) from
            either end, as in the published code.

    Raises:
        ValueError: without samples, or with too few resamples to leave any outside the interval.
    """
    num_samples = len(per_sample)
    outside = round(resamples * (1 - confidence) / 2)
    if num_samples < 1:
        raise ValueError("there are 0 samples to draw from")
    if not 1 <= outside < resamples / 2:
        raise ValueError(f"{resamples} resamples leave {outside} outside each end of a {confidence} interval")
    flat = per_sample.reshape(num_samples, -1).astype(np.float64)

    def of_weights(weights: np.ndarray) -> np.ndarray:
        return statistic((weights.astype(np.float64) @ flat).reshape(len(weights), *per_sample.shape[1:]))

    estimate = of_weights(np.ones((1, num_samples)))[0]
    weights = np.random.default_rng(seed).multinomial(num_samples, np.full(num_samples, 1 / num_samples), resamples)
    batches = range(0, resamples, RESAMPLES_AT_ONCE)
    redrawn = np.sort(np.concatenate([of_weights(weights[i : i + RESAMPLES_AT_ONCE]) for i in batches]), axis=0)
    bounds = (2 * estimate - redrawn[resamples - outside], 2 * estimate - redrawn[outside])
    return Interval(np.asarray(estimate), *(np.asarray(bound) for bound in bounds))


def segment_routing_interval(
    ids: RouterIds,
    *,
    num_experts: int | None,
    segment_length: int,
    level: str = "layer",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    allow_dropped: bool = False,
) -> Interval:
    """Interval of the SRP at a level; one set of redrawn corpora serves all layers and experts.

    Raises ValueError when no sample is as long as a window, and what `segment_routing` and `basic_bootstrap` raise.
    """
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; known are {', '.join(LEVELS)}")
    pooled_axes = {"expert": (), "layer": (2,), "model": (1, 2)}[level]
    samples = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped).samples
    per_sample = []
    for first in range(0, len(samples), SAMPLES_AT_ONCE):
        part = samples[first : first + SAMPLES_AT_ONCE]
        counts = window_histograms(
            part,
            num_experts=num_experts,
            segment_lengths=(segment_length,),
            domains=range(len(part)),
            allow_dropped=allow_dropped,
        )[segment_length].counts
        per_sample.append(counts.sum(axis=pooled_axes) if pooled_axes else counts)
    counts = np.concatenate(per_sample) if per_sample else np.zeros((0, segment_length + 1), np.int64)
    long_enough = counts.reshape(len(counts), -1).any(axis=1)
    if not long_enough.any():
        raise ValueError(f"none of {len(counts)} samples has {segment_length} tokens, the length of a window")
    return basic_bootstrap(
        counts[long_enough],
        lambda sums: best_segment_router(sums)[0],
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def hit_rate_interval(curve: HitCurve, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the hit rates of a curve that was made with per_sample=True. Raises ValueError for any other."""
    if curve.sample_hits is None or curve.sample_requests is None:
        raise ValueError("hits of single samples were not kept; ask for them with per_sample=True")
    both = np.concatenate([curve.sample_hits, curve.sample_requests[..., None]], axis=-1)
    return basic_bootstrap(
        both[both.reshape(len(both), -1).any(axis=1)],
        lambda sums: sums[..., :-1] / sums[..., -1:],
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
