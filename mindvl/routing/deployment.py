"""What a hit rate means on a machine: experts that do not fit are loaded over a link, token by token.

A toy: 16 layers, k = 8 of 64 experts, 12.6 MB an expert, a link of 25 GB/s, and a cache of 16 experts per layer with
a hit rate of 0.70:

    cache           16 layers x 16 experts x 12.6 MB      = 3.2 GB
    misses          16 x 8 requests x (1 - 0.70)          = 38.4 per token
    transfer        38.4 x 12.6 MB                        = 484 MB per token
    link bound      25 GB/s / 484 MB                      = 52 tokens per second

The link bound is what no engine exceeds that fetches every missing expert over this link for one sequence at a time;
prefetching moves transfers, it does not remove them. When the speed with all experts in memory is known, the two ends
between which a real engine lies are given too: transfers hidden behind the arithmetic, or none hidden.

A gigabyte is 1e9 bytes, as on the data sheets of links.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GIGABYTE = 1e9


@dataclass(frozen=True)
class Machine:
    """Sizes and speeds that the table starts from. Raises ValueError for one that is not above zero."""

    expert_bytes: float
    """One routed expert of one layer, in the precision that it is stored in."""
    link_bytes_per_s: float
    """Between where all experts are and where they run."""
    memory_bytes: float | None = None
    """Room for experts where they run; None where no limit was given."""
    resident_tokens_per_s: float | None = None
    """Decoding speed with every expert in memory; None where it is not known."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value:g}; it must be above 0")


@dataclass(frozen=True)
class CacheRow:
    """A cache of so many experts in every layer."""

    slots: int
    """Experts per layer."""
    cache_bytes: float
    """Of all layers."""
    hit_rate: float
    misses_per_token: float
    """Over all layers."""
    bytes_per_token: float
    link_tokens_per_s: float
    """Upper bound; infinite without misses."""
    hidden_tokens_per_s: float | None
    """With transfers fully behind the arithmetic; None when the resident speed is not known."""
    exposed_tokens_per_s: float | None
    """With no transfer behind the arithmetic."""


@dataclass(frozen=True)
class Advice:
    """A cache size and why."""

    slots: int
    reason: str


def cache_rows(
    hit_rate: np.ndarray, *, machine: Machine, layers: int, k: int, requests_per_token: float | None = None
) -> list[CacheRow]:
    """A row for every cache that a token's experts fit in, C = k .. E.

    Args:
        hit_rate: (experts) share of requests that a cache of 1, 2, .. experts per layer answers, without free cold
            misses: a first load is a transfer like any other.
        requests_per_token: over all layers; layers x k when every slot ran an expert.
    """
    asked = layers * k if requests_per_token is None else requests_per_token
    rows = []
    for slots in range(k, len(hit_rate) + 1):
        hits = float(hit_rate[slots - 1])
        misses = asked * (1 - hits)
        moved_bytes = misses * machine.expert_bytes
        transfer_s = moved_bytes / machine.link_bytes_per_s
        link_bound = 1 / transfer_s if transfer_s > 0 else math.inf
        hidden = exposed = None
        if machine.resident_tokens_per_s is not None:
            hidden = min(link_bound, machine.resident_tokens_per_s)
            exposed = 1 / (1 / machine.resident_tokens_per_s + transfer_s)
        size_bytes = slots * layers * machine.expert_bytes
        rows.append(CacheRow(slots, size_bytes, hits, misses, moved_bytes, link_bound, hidden, exposed))
    return rows


def knee(hit_rate: np.ndarray, k: int) -> int | None:
    """The cache size, in experts per layer, where more room begins to pay less; None when it pays alike throughout.

    It is the size whose hit rate lies farthest above the straight line from C = k to C = E. Random routing has the
    line itself, so a distance below 0.1 counts as no knee.
    """
    curve = np.asarray(hit_rate, np.float64)[k - 1 :]
    if len(curve) < 3:
        return None
    above = curve - np.linspace(curve[0], curve[-1], len(curve))
    best = int(above.argmax())
    return k + best if above[best] >= 0.1 else None


def advise(rows: Sequence[CacheRow], *, machine: Machine, k: int) -> Advice:
    """The largest cache that fits the memory, or without a limit the knee of the curve.

    Raises ValueError when not even the experts of one token fit.
    """
    if machine.memory_bytes is not None:
        fitting = [row for row in rows if row.cache_bytes <= machine.memory_bytes]
        limit = f"{machine.memory_bytes / GIGABYTE:.3g} GB"
        if not fitting:
            raise ValueError(
                f"{limit} hold no cache: the {k} experts that a token uses in every layer take "
                f"{rows[0].cache_bytes / GIGABYTE:.3g} GB"
            )
        best = fitting[-1]
        if best is rows[-1]:
            return Advice(best.slots, f"all experts fit into {limit}")
        return Advice(best.slots, f"the largest that fits into {limit}")
    curve = np.array([row.hit_rate for row in rows])
    found = knee(np.concatenate([np.full(k - 1, np.nan), curve]), k)
    if found is None:
        return Advice(rows[-1].slots, "hits grow evenly with size, no size is a bargain: take the memory there is")
    return Advice(found, "the knee: beyond it each further slot brings less than the average slot")


def rows_to_show(rows: Sequence[CacheRow], k: int, advised: int) -> list[CacheRow]:
    """k, 1.5 k, 2 k, 3 k, 4 k, .. doubling, all experts, and the advised size."""
    last = rows[-1].slots
    wanted = {k, round(1.5 * k), 2 * k, 3 * k, 4 * k, last, advised}
    size = 8 * k
    while size < last:
        wanted.add(size)
        size *= 2
    return [row for row in rows if row.slots in wanted]
