"""Runs the compiled replay over a chunk of samples, one piece of work per layer (or cache) and range of samples.

What comes back are *places*: requests by the place in the stack that they were found at, so that hits of a cache of C
experts are the sum over the first C places. Places add up over samples and chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mindvl.routing.cores import on_all_cores, split_samples
from mindvl.routing.inputs import Chunk, Routing
from mindvl.routing.segment_cache import segment_places
from mindvl.routing.stack import replay

USE_STEP = {"lru": 0, "lfu": 1, "belady": 0, "sch": -1}
"""What a use adds to the count that an expert's priority starts with."""


@dataclass(frozen=True)
class ReplayRule:
    """How the stack is kept; see `mindvl.routing.stack`."""

    order: str
    """A key of `USE_STEP`, or "segment"."""
    atomic: bool
    lookahead_tokens: int
    """0 for policies that look at the past only, or at all of the future."""
    free_cold_misses: bool

    @staticmethod
    def of(policy: str, variant: str, lookahead: int | None, cold_misses: str) -> ReplayRule:
        """The rule of names that `mindvl.routing.cache` has checked."""
        order = policy.removesuffix("_atomic")
        atomic = policy.endswith("_atomic")
        if policy == "sch":
            order, atomic = ("segment", False) if variant == "segment" else ("sch", variant == "atomic")
        ahead = lookahead if policy == "sch" and lookahead is not None else 0
        return ReplayRule(order, atomic, ahead, cold_misses == "free")


def replay_chunk(
    chunk: Chunk, routing: Routing, rule: ReplayRule, *, pooled: bool, per_sample: bool, places: np.ndarray
) -> None:
    """Adds the chunk to places (samples of the corpus, or 1; caches; experts of a cache), in place."""
    caches, experts = places.shape[1:]
    longest = int(np.diff(chunk.starts).max(initial=0))
    width = routing.k * (routing.layers if pooled else 1)
    clock_bits, id_bits = _key_layout(rule, longest, width, experts)
    parts: list[tuple[int, int, np.ndarray]] = []

    def run(piece: tuple[int, int, int]) -> None:
        cache, first, stop = piece
        starts = chunk.starts[first : stop + 1]
        part = chunk.part(int(starts[0]), int(starts[-1])).requests(None if pooled else cache, routing.num_experts)
        into = np.zeros((stop - first if per_sample else 1, experts), np.int64)
        if rule.order == "segment":
            segment_places(part, starts - starts[0], experts, min(rule.lookahead_tokens, longest + 1), into)
        else:
            replay(
                part,
                starts - starts[0],
                experts,
                rule.atomic,
                USE_STEP[rule.order],
                min(rule.lookahead_tokens, longest + 1),
                rule.order == "belady",
                clock_bits,
                id_bits,
                rule.free_cold_misses,
                into,
            )
        parts.append((cache, chunk.first_sample + first, into))

    ranges = split_samples(chunk.num_samples, caches)
    on_all_cores(run, [(cache, first, stop) for cache in range(caches) for first, stop in ranges])
    for cache, first, part in parts:
        places[first if per_sample else 0 :, cache][: len(part)] += part


def count_uses(chunk: Chunk, routing: Routing, per_sample: bool) -> np.ndarray:
    """(samples, or 1; layers; experts) int64: how often each expert was asked for."""
    offsets = np.arange(routing.layers)[:, None] * routing.num_experts
    bounds = pairwise(chunk.starts) if per_sample else [(0, len(chunk.ids))]
    size = routing.layers * routing.num_experts
    asked = [chunk.ids[begin:end] for begin, end in bounds]
    uses = [np.bincount((ids + offsets)[ids >= 0], minlength=size) for ids in asked]
    return np.stack(uses).reshape(-1, routing.layers, routing.num_experts).astype(np.int64)


def _key_layout(rule: ReplayRule, tokens: int, width: int, experts: int) -> tuple[int, int]:
    """Bits of an entry for the time of last use and for the id; the rest is for the count."""
    id_bits = (experts - 1).bit_length()
    clock_bits = (tokens * width).bit_length()
    if rule.order == "belady":
        if tokens * width + experts >= 2**31:
            raise ValueError(
                f"a sample of {tokens} tokens makes {tokens * width} requests of one cache; "
                "Belady is counted in 31 bits"
            )
        return clock_bits, id_bits
    count_bits = {"lru": 0, "lfu": tokens, "sch": min(rule.lookahead_tokens, tokens)}.get(rule.order, 0).bit_length()
    if count_bits + clock_bits + id_bits > 62:
        raise ValueError(
            f"a sample of {tokens} tokens, {width} requests each, of {experts} experts does not fit in 62 bits: "
            f"{count_bits} for uses, {clock_bits} for time, {id_bits} for ids"
        )
    return clock_bits, id_bits
