"""Replay of recorded routing through an expert cache: the hits of every cache size, under several policies.

A request is one (token, expert). It hits when the expert is in the cache at the moment its token starts. Each sample
starts with an empty cache. Policies, by what they evict when an expert must be let in:

    lru        the expert used least recently
    lfu        the one used least often in this sample so far (least recently among equals)
    belady     the one whose next use is farthest away, never used again counting as after the end, by id
    sch        the one with the fewest uses still to come in tokens i .. i+m-1 (least recently used among equals), where
               i is the current token and m the `lookahead`: what a good guess about the next segment is worth
    pinned     nothing: the C experts used most often, over all samples or in given `frequencies`, are loaded for good

SCH, *segment cache best hit rate* (arXiv 2505.16056), is three definitions under one name:

    atomic     a token needs its k experts together; none of them leaves while the token lasts. What a system can reach,
               and never more than `belady_atomic`, which is optimal for C >= k
    reference  the paper's code of the final version: experts of a token enter one by one, so that one may be evicted
               before its turn though it was counted as a hit. Depends on the order of slots, and can exceed Belady
    segment    the paper's first version: `mindvl.routing.segment_cache`

LRU, LFU and Belady are published in serial form (as "reference"), and are so here whatever `variant` says;
`lfu_atomic` and `belady_atomic` are their atomic forms. LRU's two forms have the same hits for every C. With m = 1
nothing is seen of the future, and SCH is LRU: `atomic` for every C, `reference` for C >= k.

By hand, E = 3, k = 1, requests a b c a b, C = 2, lru:

    a  cold     cache [a]        cold misses are free: fewer than 2 experts were seen, the slot was empty anyway. A hit
    b  cold     cache [b a]      the same. A hit
    c  cold     cache [c b]      the cache is full: a miss
    a  miss     cache [a c]
    b  miss     cache [b a]      2 hits of 5; `cold_misses="counted"` says 0 of 5

Free cold misses are the published rule: a cache of E experts then hits always, and short samples are not punished.
Counted ones are what a request that starts on an empty cache feels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindvl.routing.inputs import RouterIds, read_routing
from mindvl.routing.replay import ReplayRule, count_uses, replay_chunk

POLICIES = ("sch", "lru", "lfu", "belady", "pinned", "lfu_atomic", "belady_atomic")
VARIANTS = ("atomic", "reference", "segment")
COLD_MISSES = ("free", "counted")


@dataclass(frozen=True, eq=False)
class HitCurve:
    """Hits of all cache sizes; index c - 1 is a cache of c experts."""

    hits: np.ndarray
    """(layers, experts) int64, summed over samples; (layers * experts) for a cache pooled over layers."""
    requests: np.ndarray
    """(layers) int64; () for a pooled cache. For SCH's variant "segment" a request counts once per window."""
    sample_hits: np.ndarray | None = None
    """(samples, ...) int64: `hits` of each sample, when asked for."""
    sample_requests: np.ndarray | None = None
    """(samples, ...) int64."""

    @property
    def hit_rate(self) -> np.ndarray:
        """Hits over requests in float64, NaN without requests."""
        return _rate(self.hits, self.requests)

    @property
    def sample_hit_rate(self) -> np.ndarray:
        """(samples, ...) float64. Raises ValueError when the replay did not keep samples apart."""
        if self.sample_hits is None or self.sample_requests is None:
            raise ValueError("hits of single samples were not kept; ask for them with per_sample=True")
        return _rate(self.sample_hits, self.sample_requests)


def cache_hits(
    ids: RouterIds,
    *,
    num_experts: int | None,
    policy: str,
    variant: str = "atomic",
    lookahead: int | None = None,
    pooled: bool = False,
    cold_misses: str = "free",
    frequencies: np.ndarray | None = None,
    per_sample: bool = False,
    allow_dropped: bool = False,
) -> HitCurve:
    """Hits of recorded routing for all cache sizes 1 .. experts at once.

    Args:
        ids: expert ids (samples, tokens, layers, k) in router order, or a list of (tokens, layers, k).
        policy: one of `POLICIES`.
        variant: of SCH, one of `VARIANTS`; other policies take no notice.
        lookahead: m of SCH in tokens, the current one included; other policies take no notice.
        pooled: one cache for all layers instead of one per layer. Its experts are layer * num_experts + expert, and a
            token asks for those of layer 0 first.
        cold_misses: "free" as published, or "counted". Matters to neither "pinned", which is loaded before the first
            token, nor SCH's variant "segment".
        frequencies: (layers, experts) counts that "pinned" goes by, such as those of a held-out corpus; left out, the
            counts of `ids` themselves. Equal counts go to the lower id.
        per_sample: also keep each sample's hits, for intervals.
        allow_dropped: take -1 for a slot that ran no expert, as in recorded traces, instead of for an error.

    Raises:
        ValueError: for unknown names, SCH without a lookahead, or ids that no router could give.
    """
    places, requests = count_places(
        ids,
        num_experts=num_experts,
        policy=policy,
        variant=variant,
        lookahead=lookahead,
        pooled=pooled,
        cold_misses=cold_misses,
        per_sample=per_sample,
        allow_dropped=allow_dropped,
    )
    if policy == "pinned":
        places = pinned_places(places, frequencies)
    return hit_curve(places, requests, pooled=pooled, per_sample=per_sample)


def count_places(
    ids: RouterIds,
    *,
    num_experts: int | None,
    policy: str,
    variant: str = "atomic",
    lookahead: int | None = None,
    pooled: bool = False,
    cold_misses: str = "free",
    per_sample: bool = False,
    allow_dropped: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """What adds up over samples, from any split of a corpus: (places, requests), see `mindvl.routing.replay`.

    Places are (samples, or 1; caches; experts of a cache) int64; for "pinned", uses by expert id, which `pinned_places`
    orders once all are known. Requests are (samples, or 1; caches). Arguments and errors are those of `cache_hits`.
    """
    check_policy(policy, variant, lookahead, cold_misses)
    routing = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped)
    caches, experts = (1, routing.layers * routing.num_experts) if pooled else (routing.layers, routing.num_experts)
    rows = routing.num_samples if per_sample else 1
    places = np.zeros((rows, caches, experts), np.int64)
    requests = np.zeros((rows, caches), np.int64)
    rule = None if policy == "pinned" else ReplayRule.of(policy, variant, lookahead, cold_misses)
    for chunk in routing.chunks():
        here = slice(chunk.first_sample, chunk.first_sample + chunk.num_samples) if per_sample else slice(0, 1)
        asked = chunk.num_requests() if per_sample else chunk.num_requests().sum(axis=0, keepdims=True)
        requests[here] += asked.sum(axis=1, keepdims=True) if pooled else asked
        if rule is None:
            places[here] += count_uses(chunk, routing, per_sample).reshape(-1, caches, experts)
        else:
            replay_chunk(chunk, routing, rule, pooled=pooled, per_sample=per_sample, places=places)
    if rule is not None and rule.order == "segment":
        requests = places.sum(axis=-1)  # each window asks for all that it holds, and a full cache answers it
    return places, requests


def hit_curve(places: np.ndarray, requests: np.ndarray, *, pooled: bool, per_sample: bool = False) -> HitCurve:
    """The curve of summed places, each cache of C experts answering the first C of them."""
    hits = places.cumsum(axis=-1)
    if pooled:
        hits, requests = hits[:, 0], requests[:, 0]
    kept = (hits, requests) if per_sample else (None, None)
    return HitCurve(hits.sum(axis=0), np.asarray(requests.sum(axis=0)), *kept)


def pinned_places(uses: np.ndarray, frequencies: np.ndarray | None = None) -> np.ndarray:
    """Uses (rows, caches, experts) put in the order in which experts are pinned: most frequent first, then by id.

    Without `frequencies`, those of all rows together. Raises ValueError when their shape is another.
    """
    goes_by = uses.sum(axis=0) if frequencies is None else np.asarray(frequencies)
    experts = uses.shape[1] * uses.shape[2]
    if goes_by.size != experts:
        raise ValueError(
            f"frequencies have shape {goes_by.shape}, {goes_by.size} numbers; the trace has {experts} experts "
            "in all its layers"
        )
    order = np.argsort(-goes_by.reshape(uses.shape[1:]), axis=-1, kind="stable")
    return np.take_along_axis(uses, order[None], axis=-1)


def check_policy(policy: str, variant: str, lookahead: int | None, cold_misses: str) -> None:
    """Raises ValueError for a name that is not known, or SCH without a lookahead of at least one token."""
    for name, value, known in (
        ("policy", policy, POLICIES),
        ("variant", variant, VARIANTS),
        ("cold_misses", cold_misses, COLD_MISSES),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
    if policy == "sch" and lookahead is None:
        raise ValueError('policy "sch" needs a lookahead: the tokens that it sees, the current one included')
    if policy == "sch" and lookahead is not None and lookahead < 1:
        raise ValueError(f"the lookahead is {lookahead} tokens, it must be at least 1: the current token")


def _rate(hits: np.ndarray, requests: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return hits / requests[..., None]
