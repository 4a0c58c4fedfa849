"""All that a report says of one trace, measured once: numbers first, pictures and words are made of them later.

    measured = measure(Trace("traces/olmoe"))
    measured.srp[16].estimate          0.509: SRP of all layers at 16 tokens
    measured.hit_rate["lru"][15]       0.61: a cache of 16 experts in every layer, least recently used out first

Hit rates here are of one cache per layer, summed over layers, and atomic: all experts of a token are in the cache
together. So `belady_atomic` bounds the others for C >= k. First loads are free, as published; `lru_counted` alone
counts them, since a machine pays for them. Two numbers are of one cache for all layers, to stand beside the paper's:
these are replayed on at most 64 samples, evenly spaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.routing.balance import load_balance
from mindvl.routing.bootstrap import Interval, hit_rate_interval, segment_routing_interval
from mindvl.routing.cache import HitCurve, cache_hits
from mindvl.routing.floors import random_srp
from mindvl.routing.groups import DomainRow, KindRow, domain_rows, kind_rows
from mindvl.routing.published import SEGMENT_LENGTH as HEADLINE_LENGTH
from mindvl.routing.reuse import consecutive_reuse, expert_lifetime, working_set
from mindvl.routing.sample import Routings, TraceMeta
from mindvl.routing.segments import scores_from_counts
from mindvl.routing.windows import window_histograms

SEGMENT_LENGTHS = (2, 4, 8, 16, 32, 64, 128, 256)
INTERVALS_UP_TO = 64
"""Longest segment that gets an interval: histograms of single samples grow with the length."""
POOLED_SAMPLES = 64
SAMPLES_AT_ONCE = 512
CURVES = ("lru", "lfu", "pinned", "pinned_held_out", "sch", "belady")


@dataclass(frozen=True, eq=False)
class Measured:
    """One trace, or one domain of it. Ratios are between 0 and 1, NaN where a value does not exist."""

    name: str
    meta: TraceMeta
    num_samples: int
    num_tokens: int
    longest_tokens: int
    requests_per_token: float
    """Over all layers; fewer than layers x k where slots ran no expert."""
    segment_lengths: tuple[int, ...]
    srp: dict[int, Interval]
    """Of all layers; bounds are NaN for lengths beyond `INTERVALS_UP_TO`."""
    srp_layers: np.ndarray
    """(lengths, layers)."""
    srp_experts: np.ndarray
    """(layers, experts) at 16 tokens; NaN for an expert that was never active."""
    activation: np.ndarray
    """(layers, experts) at 16 tokens."""
    size_ratio: float
    load_balance_percent: float
    hit_rate: dict[str, np.ndarray]
    """(experts) by name of `CURVES`, and "lru_counted"."""
    lru: Interval
    """(experts)."""
    lru_layers: np.ndarray
    """(layers, experts)."""
    pooled_lru: Interval
    """(): one cache of 2 k x layers experts for all layers."""
    pooled_sch: Interval
    """() the same under SCH, variant "reference", look-ahead 16: comparable with the paper's table."""
    working_set: dict[int, float]
    """Different experts of a layer in a segment, mean over layers."""
    reuse: np.ndarray
    """(layers) share of requests that the token before made too."""
    lifetime_tokens: float
    """Mean stay of an expert in an LRU cache of 2 k."""
    domains: tuple[DomainRow, ...]
    kinds: tuple[KindRow, ...]

    @property
    def floor(self) -> float:
        """SRP that no routing falls below: choose every expert always."""
        return float(random_srp(self.requests_per_token / len(self.meta.layers) / self.meta.num_experts))

    @property
    def double(self) -> int:
        """Slots of the headline cache: 2 k, or all experts."""
        return min(2 * self.meta.k, self.meta.num_experts)


def measure(
    trace: Routings,
    *,
    name: str | None = None,
    segment_lengths: Sequence[int] | None = None,
    domain: str | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Measured:
    """Measure a trace, or one domain of it.

    Args:
        name: in tables and legends; the model's when left out.
        segment_lengths: of the SRP curve; powers of two as far as samples reach when left out. 16 is always there.
        domain: only its samples.
        say: hears what is being measured.

    Raises:
        ValueError: for an empty trace, a domain that it does not have, and lengths that no sample reaches.
    """
    name = name or trace.meta.model
    known = trace.domains
    if domain is not None and domain not in known:
        names = ", ".join(sorted({each or "(unnamed)" for each in known})) or "none"
        raise ValueError(f"{name} has no domain {domain!r}; it has {names}")
    chosen = [number for number, label in enumerate(known) if domain is None or label == domain]
    samples = [sample for sample in (trace.sample(number) for number in chosen) if len(sample)]
    if not samples:
        raise ValueError(f"{name} holds no tokens: {len(chosen)} samples, all empty")
    ids = [sample.ids for sample in samples]
    labels = [sample.domain or "unnamed" for sample in samples]
    longest = max(map(len, ids))
    lengths = _lengths(segment_lengths, longest, name)
    meta, layers, k = trace.meta, len(trace.meta.layers), trace.meta.k
    rule: dict = {"num_experts": meta.num_experts, "allow_dropped": True}

    say(f"{name}: segments of {', '.join(map(str, lengths))} tokens")
    histograms = window_histograms(ids, segment_lengths=lengths, domains=labels, **rule)
    pooled = {length: histogram.pooled() for length, histogram in histograms.items()}
    model = {length: scores_from_counts(each.counts[0], level="model") for length, each in pooled.items()}
    by_layer = [scores_from_counts(pooled[length].counts[0]).srp for length in lengths]
    experts = scores_from_counts(pooled[HEADLINE_LENGTH].counts[0], level="expert")
    srp = {}
    for length in lengths:
        if length <= INTERVALS_UP_TO:
            srp[length] = segment_routing_interval(ids, segment_length=length, level="model", **rule)
        else:
            srp[length] = Interval(model[length].srp, np.array(np.nan), np.array(np.nan))

    say(f"{name}: caches of all sizes, in {layers} layers")
    lru = per_sample_hits(ids, policy="lru", **rule)
    assert lru.sample_hits is not None and lru.sample_requests is not None
    rates = {"lru": lru.hits.sum(0) / lru.requests.sum()}
    others: dict[str, dict] = {
        "lfu": {"policy": "lfu_atomic"},
        "pinned": {"policy": "pinned"},
        "sch": {"policy": "sch", "lookahead": HEADLINE_LENGTH},
        "belady": {"policy": "belady_atomic"},
        "lru_counted": {"policy": "lru", "cold_misses": "counted"},
    }
    for curve, settings in others.items():
        found = cache_hits(ids, **settings, **rule)
        rates[curve] = found.hits.sum(0) / found.requests.sum()
    rates["pinned_held_out"] = _pinned_held_out(ids, **rule)

    say(f"{name}: one cache for all layers")
    some = [ids[int(number)] for number in np.unique(np.linspace(0, len(ids) - 1, POOLED_SAMPLES).astype(int))]
    size = min(2 * k * layers, meta.num_experts * layers)
    published_sch: dict = {"policy": "sch", "variant": "reference", "lookahead": HEADLINE_LENGTH}
    pooled_lru, pooled_sch = (
        _at(cache_hits(some, pooled=True, per_sample=True, **settings, **rule), size)
        for settings in ({"policy": "lru"}, published_sch)
    )

    say(f"{name}: reuse, domains and kinds of tokens")
    requests, tokens = int(lru.requests.sum()), sum(map(len, ids))
    return Measured(
        name=name if domain is None else f"{name}, {domain}",
        meta=meta,
        num_samples=len(ids),
        num_tokens=tokens,
        longest_tokens=longest,
        requests_per_token=requests / tokens,
        segment_lengths=lengths,
        srp=srp,
        srp_layers=np.array(by_layer),
        srp_experts=np.where(experts.activation > 0, experts.srp, np.nan),
        activation=experts.activation,
        size_ratio=float(model[HEADLINE_LENGTH].size_ratio),
        load_balance_percent=load_balance(experts.activation),
        hit_rate=rates,
        lru=hit_rate_interval(
            HitCurve(
                lru.hits.sum(0), np.asarray(lru.requests.sum()), lru.sample_hits.sum(1), lru.sample_requests.sum(1)
            )
        ),
        lru_layers=lru.hit_rate,
        pooled_lru=pooled_lru,
        pooled_sch=pooled_sch,
        working_set={length: float(working_set(pooled[length])[0].mean()) for length in lengths},
        reuse=consecutive_reuse(ids, **rule).requests,
        lifetime_tokens=float(expert_lifetime(ids, **rule)[:, min(2 * k, meta.num_experts) - 1].mean()),
        domains=domain_rows(histograms[HEADLINE_LENGTH], labels, lru, min(2 * k, meta.num_experts)),
        kinds=kind_rows(samples, lengths, **rule),
    )


def per_sample_hits(ids: Sequence[np.ndarray], **rule) -> HitCurve:
    """`cache_hits(..., per_sample=True)` in blocks of samples, so that a step's memory does not grow with the trace."""
    parts = [
        cache_hits(ids[first : first + SAMPLES_AT_ONCE], per_sample=True, **rule)
        for first in range(0, len(ids), SAMPLES_AT_ONCE)
    ]
    sample_hits = np.concatenate([part.sample_hits for part in parts])
    sample_requests = np.concatenate([part.sample_requests for part in parts])
    return HitCurve(sample_hits.sum(0), sample_requests.sum(0), sample_hits, sample_requests)


def _lengths(given: Sequence[int] | None, longest: int, name: str) -> tuple[int, ...]:
    if longest < HEADLINE_LENGTH:
        raise ValueError(
            f"{name}: the longest sample has {longest} tokens; the headline SRP needs {HEADLINE_LENGTH} in a row"
        )
    if given is None:
        return tuple(length for length in SEGMENT_LENGTHS if length <= longest)
    for length in given:
        if not 1 <= length <= longest:
            raise ValueError(f"{name}: segments of {length} tokens were asked for, its longest sample has {longest}")
    return tuple(sorted({*given, HEADLINE_LENGTH}))


def _pinned_held_out(ids: Sequence[np.ndarray], *, num_experts: int, allow_dropped: bool) -> np.ndarray:
    """Hit rate of experts pinned by the uses in the other half of the samples, over both halves; NaN for one sample."""
    halves = (ids[0::2], ids[1::2])
    if not len(halves[1]):
        return np.full(num_experts, np.nan)
    layers = ids[0].shape[1]
    hits, requests = np.zeros(num_experts, np.int64), 0
    for mine, other in (halves, halves[::-1]):
        uses = np.zeros((layers, num_experts), np.int64)
        for sample in other:
            for layer in range(layers):
                chosen = sample[:, layer].ravel()
                uses[layer] += np.bincount(chosen[chosen >= 0], minlength=num_experts)
        found = cache_hits(
            mine, policy="pinned", frequencies=uses, num_experts=num_experts, allow_dropped=allow_dropped
        )
        hits, requests = hits + found.hits.sum(0), requests + int(found.requests.sum())
    return hits / requests


def _at(curve: HitCurve, size: int) -> Interval:
    """Interval of one cache size of a pooled cache."""
    assert curve.sample_hits is not None
    at = slice(size - 1, size)
    interval = hit_rate_interval(
        HitCurve(curve.hits[at], curve.requests, curve.sample_hits[:, at], curve.sample_requests)
    )
    return Interval(*(np.asarray(values[0]) for values in (interval.estimate, interval.low, interval.high)))
