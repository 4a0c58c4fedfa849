"""Segment routing best performance, SRP (arXiv 2505.16056, section 3): how well one choice serves a whole segment.

Suppose experts had to be chosen once for a window of m tokens instead of once per token. A *segment router* says for
each window and expert "active in all m tokens" or "in none". Its answer is compared with what the router really did,
token by token, by the F1 score over all windows and experts of a group; SRP is the F1 of the best segment router:

    1     the routing is constant inside windows, a cache could be loaded once per window
    low   every token wants other experts

The best one is a threshold rule: choose what is active in at least a tokens of the window, with a single a for the
group. So it needs only the histogram of `mindvl.routing.windows`, h[j] = windows (x experts) with j active tokens:

    M(a) = sum of j h[j] over j >= a         active (token, expert) pairs that the rule covers
    P(a) = m x sum of h[j] over j >= a       pairs that the rule chooses
    A    = M(0)                              active pairs in all
    SRP  = max over a of 2 M(a) / (P(a) + A)

By hand, for the expert of windows.py, h = [0, 2, 2, 0], m = 3: A = 2 + 4 = 6.

    a = 0, 1    M = 6    P = 12    F1 = 12 / 18 = 0.667      choose it everywhere
    a = 2       M = 4    P = 6     F1 = 8 / 12  = 0.667
    a = 3       M = 0    P = 0     F1 = 0                    SRP = 0.667

With the SRP come the *size ratio* P(a*) / A, the mean number of experts that the best segment router chooses over the
router's own (the smallest a* counts where several are best), and the *activation* A / P(0), the share of a window's
tokens that choose the expert.

A group is one expert, all experts of a layer, or of all layers. Its histograms are added *before* the ratio is taken:
the SRP of a layer is not the mean of its experts' SRP.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.routing.inputs import RouterIds
from mindvl.routing.windows import window_histograms

LEVELS = ("expert", "layer", "model")


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """Local routing consistency of each group, in float64.

    Shapes are (layers, experts) for level "expert", (layers) for "layer" and () for "model", after a leading axis of
    domains where samples had labels. NaN where no sample is as long as a window; 0 for a group that is never active.
    """

    srp: np.ndarray
    """F1 of the best segment router, 0 to 1."""
    size_ratio: np.ndarray
    """Mean experts that it chooses over the router's own."""
    activation: np.ndarray
    """Share of (window, token) pairs that are active; tokens near a sample's ends lie in fewer windows."""
    num_windows: np.ndarray
    """() int64, or (domains)."""
    segment_length: int
    level: str
    domains: tuple[Hashable, ...] | None
    """Labels of the leading axis, sorted; None without domains."""


def segment_routing(
    ids: RouterIds,
    *,
    num_experts: int | None,
    segment_length: int,
    level: str = "layer",
    domains: Sequence[Hashable] | None = None,
    position: int | None = None,
    allow_dropped: bool = False,
) -> SegmentScores:
    """SRP, size ratio and activation of recorded routing, for one segment length in tokens.

    Args:
        ids: expert ids (samples, tokens, layers, k), or a list of (tokens, layers, k) for samples of unequal length.
        segment_length: m, any number of tokens from 1 (where SRP is 1 by definition).
        level: what is pooled: "expert" nothing, "layer" the experts of a layer, "model" all of them.
        domains: a label per sample; the results then have a leading axis in the order of the result's `domains`.
        position: only the window that starts at this token of each sample, for SRP as a function of position.
        allow_dropped: take -1 for a slot that ran no expert, as in recorded traces, instead of for an error.

    Raises:
        ValueError: for an unknown level, a length below 1, or ids that no router could give.
    """
    _check_level(level)
    histograms = window_histograms(
        ids,
        num_experts=num_experts,
        segment_lengths=(segment_length,),
        domains=domains,
        position=position,
        allow_dropped=allow_dropped,
    )
    histogram = histograms[segment_length]
    counts = histogram.counts if histogram.domains is not None else histogram.counts[0]
    return scores_from_counts(counts, level=level, domains=histogram.domains)


def scores_from_counts(
    counts: np.ndarray, *, level: str = "layer", domains: tuple[Hashable, ...] | None = None
) -> SegmentScores:
    """Scores of histograms (..., layers, experts, m + 1) int64; axes before the layers stay."""
    _check_level(level)
    pooled_axes = {"expert": (), "layer": (-2,), "model": (-3, -2)}[level]
    srp, size_ratio, activation = best_segment_router(counts.sum(axis=pooled_axes) if pooled_axes else counts)
    return SegmentScores(
        srp=srp,
        size_ratio=size_ratio,
        activation=activation,
        num_windows=np.asarray(counts[..., 0, 0, :].sum(axis=-1)),
        segment_length=counts.shape[-1] - 1,
        level=level,
        domains=domains,
    )


def best_segment_router(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(SRP, size ratio, activation) of groups with histograms (..., m + 1), whole numbers of any kind."""
    length = counts.shape[-1] - 1
    covered = _sum_from(counts * np.arange(length + 1))
    chosen = _sum_from(counts) * length
    active = covered[..., :1]
    f1 = 2 * covered / np.maximum(chosen + active, 1)
    best = f1.argmax(axis=-1, keepdims=True)
    some_window = chosen[..., 0] > 0
    srp = np.take_along_axis(f1, best, axis=-1)[..., 0]
    size_ratio = (np.take_along_axis(chosen, best, axis=-1) * (active > 0) / np.maximum(active, 1))[..., 0]
    activation = active[..., 0] / np.maximum(chosen[..., 0], 1)
    srp, size_ratio, activation = (
        np.asarray(np.where(some_window, value, np.nan)) for value in (srp, size_ratio, activation)
    )
    return srp, size_ratio, activation


def _sum_from(values: np.ndarray) -> np.ndarray:
    """Along the last axis, the sum from each place to the end."""
    return np.flip(np.cumsum(np.flip(values, axis=-1), axis=-1), axis=-1)


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; known are {', '.join(LEVELS)}")
