"""Simple measures of how much a token's experts resemble those before it.

    consecutive reuse   of a token's experts, how many the token before had too (Mixtral, arXiv 2401.04088, table 5)
    working set         how many different experts a window of m tokens uses
    expert lifetime     how many tokens an expert stays in a cache between its load and its eviction

By hand, k = 2, one layer, tokens {0 1} {1 2} {1 2}: reuse (1 + 2) of 4 requests = 0.75; the working set of windows of
2 is 3, then 2, so 2.5 on average.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

import numpy as np
from numba import njit

from mindvl.routing.cache import cache_hits
from mindvl.routing.inputs import RouterIds, read_routing
from mindvl.routing.windows import WindowHistogram


@dataclass(frozen=True, eq=False)
class ConsecutiveReuse:
    """Shares over neighbouring tokens of a sample, (layers) float64 each, NaN without neighbours; and their chance.

    Chance is what independent routing with equal probabilities gives: k / E for requests, 1 / E for the first choice.
    """

    requests: np.ndarray
    """Share of requests whose expert the token before had too."""
    first_choice: np.ndarray
    """Share of tokens with the same first choice as the token before."""
    any_choice: np.ndarray
    """Share of tokens that have at least one expert in common with the token before."""
    chance_requests: float
    chance_first_choice: float
    chance_any_choice: float


def consecutive_reuse(ids: RouterIds, *, num_experts: int | None, allow_dropped: bool = False) -> ConsecutiveReuse:
    """How often neighbouring tokens share experts. Raises ValueError for ids that no router could give."""
    routing = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped)
    found = np.zeros((4, routing.layers), np.int64)
    pairs = 0
    for chunk in routing.chunks():
        pairs += int(np.maximum(np.diff(chunk.starts) - 1, 0).sum())
        for layer in range(routing.layers):
            _count_shared(
                chunk.requests(layer, routing.num_experts), chunk.starts, routing.num_experts, found[:, layer]
            )
    k, experts = routing.k, routing.num_experts
    _, first, some, asked = found
    with np.errstate(invalid="ignore"):
        shares = found[0] / asked, first / np.float64(pairs), some / np.float64(pairs)
    return ConsecutiveReuse(
        requests=shares[0],
        first_choice=shares[1],
        any_choice=shares[2],
        chance_requests=k / experts,
        chance_first_choice=1 / experts,
        chance_any_choice=1 - math.comb(experts - k, k) / math.comb(experts, k),
    )


def working_set(histogram: WindowHistogram) -> np.ndarray:
    """Mean number of different experts in a window: (domains, layers) float64, NaN without windows."""
    windows = histogram.num_windows[:, None]
    used = (windows[..., None] - histogram.counts[..., 0]).sum(axis=-1)
    return np.where(windows > 0, used / np.maximum(windows, 1), np.nan)


def expert_lifetime(
    ids: RouterIds,
    *,
    num_experts: int | None,
    policy: str = "lru",
    lookahead: int | None = None,
    allow_dropped: bool = False,
) -> np.ndarray:
    """Mean tokens that an expert stays in the cache: (layers, experts) float64, for every cache size.

    Policies are replayed in atomic form: an expert stays until a token evicts it, or until its sample ends. What is
    resident does not depend on the policy, all experts seen until the cache is full, so the mean is the sum over tokens
    of min(C, experts seen) over the number of loads. NaN for caches of C < k, which no token fits in.
    """
    names = {"lru": "lru", "lfu": "lfu_atomic", "belady": "belady_atomic", "sch": "sch"}
    if policy not in names:
        raise ValueError(f"unknown policy {policy!r}; lifetimes are known of {', '.join(names)}")
    routing = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped)
    resident = np.zeros((routing.layers, routing.num_experts), np.int64)
    for chunk in routing.chunks():
        for layer in range(routing.layers):
            _count_resident(chunk.requests(layer, routing.num_experts), chunk.starts, resident[layer])
    curve = cache_hits(
        routing.samples,
        num_experts=num_experts,
        policy=names[policy],
        lookahead=lookahead,
        cold_misses="counted",
        allow_dropped=allow_dropped,
    )
    loads = curve.requests[:, None] - curve.hits
    lifetime = np.where(loads > 0, resident.cumsum(axis=1) / np.maximum(loads, 1), np.nan)
    lifetime[:, : routing.k - 1] = np.nan
    return lifetime


@njit(cache=True, nogil=True)
@typing.no_type_check
def _count_shared(requests, starts, num_experts, found):
    """Adds, over tokens with one before: shared requests, equal first choices, tokens that share any, requests."""
    last = np.full(num_experts, -1, np.int64)  # the last token that asked for an expert
    k = requests.shape[1]
    for sample in range(len(starts) - 1):
        for token in range(starts[sample], starts[sample + 1]):
            shared = 0
            for slot in range(k):
                expert = requests[token, slot]
                if expert < 0:
                    continue
                found[3] += token > starts[sample]
                if token > starts[sample] and last[expert] == token - 1:
                    shared += 1
                last[expert] = token
            found[0] += shared
            found[2] += shared > 0
            if token > starts[sample] and requests[token, 0] == requests[token - 1, 0] >= 0:
                found[1] += 1


@njit(cache=True, nogil=True)
@typing.no_type_check
def _count_resident(requests, starts, resident):
    """Adds to place c the tokens from which on more than c different experts were seen."""
    seen = np.full(len(resident), -1, np.int64)
    for sample in range(len(starts) - 1):
        distinct = 0
        for token in range(starts[sample], starts[sample + 1]):
            for slot in range(requests.shape[1]):
                expert = requests[token, slot]
                if expert >= 0 and seen[expert] != sample:
                    seen[expert] = sample
                    resident[distinct] += starts[sample + 1] - token
                    distinct += 1
