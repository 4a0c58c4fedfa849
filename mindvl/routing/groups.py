"""A trace by what its tokens are: domains of text, and pictures, text and generated tokens.

Domains compare whole samples. Kinds compare runs of neighbouring tokens of one kind, since a segment must not bridge
a picture: of "a a v v v v a", the text runs are 2 and 1 tokens long and hold no segment of 4, the picture one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.routing.balance import domain_specialization, load_balance, pearson
from mindvl.routing.bootstrap import Interval, segment_routing_interval
from mindvl.routing.cache import HitCurve
from mindvl.routing.published import SEGMENT_LENGTH as HEADLINE_LENGTH
from mindvl.routing.reuse import consecutive_reuse
from mindvl.routing.sample import RoutingSample, TokenKind
from mindvl.routing.segments import scores_from_counts
from mindvl.routing.windows import WindowHistogram, window_histograms


@dataclass(frozen=True, eq=False)
class DomainRow:
    """One domain at the headline length."""

    name: str
    num_samples: int
    srp: float
    activation: np.ndarray
    """(layers, experts)."""
    load_balance_percent: float
    hit_rate: float
    """LRU, 2 k experts per layer."""


@dataclass(frozen=True, eq=False)
class KindRow:
    """One kind of token."""

    name: str
    num_tokens: int
    srp: dict[int, float]
    """By segment length; NaN where no run is as long."""
    headline: Interval
    """SRP at 16 tokens."""
    activation: np.ndarray
    """(layers, experts) over all its tokens."""
    reuse: float
    """Share of requests that the token before, of the same kind, made too."""
    likeness: float
    """Pearson's r of activation with that of text tokens, over all experts; NaN without text."""


def domain_rows(histogram: WindowHistogram, labels: Sequence[str], lru: HitCurve, slots: int) -> tuple[DomainRow, ...]:
    """A row per domain, the most consistent first. `labels` and the hits kept in `lru` are per sample."""
    assert histogram.domains is not None and lru.sample_hits is not None and lru.sample_requests is not None
    srp = scores_from_counts(histogram.counts, level="model").srp
    activation = scores_from_counts(histogram.counts, level="expert").activation
    label = np.array(labels)
    rows = []
    for number, name in enumerate(histogram.domains):
        mine = label == name
        hits = lru.sample_hits[mine, :, slots - 1].sum() / lru.sample_requests[mine].sum()
        balance = load_balance(activation[number])
        rows.append(DomainRow(str(name), int(mine.sum()), float(srp[number]), activation[number], balance, float(hits)))
    return tuple(sorted(rows, key=lambda row: -row.srp))


def specialization(rows: Sequence[DomainRow], srp_experts: np.ndarray) -> tuple[float, float]:
    """(mean coefficient of variation over domains, its r with the experts' SRP); NaN with fewer than two domains."""
    if len(rows) < 2:
        return float("nan"), float("nan")
    found = domain_specialization(np.array([row.activation for row in rows]))
    return found.model, pearson(srp_experts, found.experts)


def kind_rows(samples: Sequence[RoutingSample], lengths: Sequence[int], **rule) -> tuple[KindRow, ...]:
    """A row per kind of token, none where there is only one kind."""
    runs: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        edges = np.flatnonzero(np.diff(sample.kinds)) + 1
        for start, stop in zip((0, *edges), (*edges, len(sample)), strict=True):
            runs.setdefault(TokenKind(int(sample.kinds[start])).name.lower(), []).append(sample.ids[start:stop])
    if len(runs) < 2:
        return ()
    parts = []
    for name, ids in sorted(runs.items(), key=lambda item: TokenKind[item[0].upper()]):
        histograms = window_histograms(ids, segment_lengths=(1, *lengths), **rule)
        srp = {n: float(scores_from_counts(histograms[n].counts[0], level="model").srp) for n in lengths}
        activation = scores_from_counts(histograms[1].counts[0], level="expert").activation
        reuse = float(np.nanmean(consecutive_reuse(ids, **rule).requests)) if max(map(len, ids)) > 1 else float("nan")
        parts.append((name, ids, srp, activation, reuse))
    text = next((activation for name, _, _, activation, _ in parts if name == "text"), None)
    return tuple(
        KindRow(
            name,
            sum(map(len, ids)),
            srp,
            _headline(ids, srp, **rule),
            activation,
            reuse,
            float("nan") if text is None else pearson(activation, text),
        )
        for name, ids, srp, activation, reuse in parts
    )


def _headline(ids: Sequence[np.ndarray], srp: dict[int, float], **rule) -> Interval:
    nothing = np.array(np.nan)
    if np.isnan(srp[HEADLINE_LENGTH]):
        return Interval(nothing, nothing, nothing)
    return segment_routing_interval(list(ids), segment_length=HEADLINE_LENGTH, level="model", **rule)
