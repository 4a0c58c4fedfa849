"""How long the routing metrics take on 100,352 tokens: 196 samples of 512, 16 layers, 8 of 64 experts.

The trace is made here: each expert's wish drifts from token to token, so that neighbours resemble each other. Times are
of calls after the first, which also loads (or, on a new machine, compiles) the loops.
"""

from __future__ import annotations

import numpy as np

from mindvl.cores import num_cores
from mindvl.routing import cache_hits, window_histograms
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.rows import Row

ROWS = ("srp_s", "sch_s", "lru_lfu_belady_s", "pooled_sch_s")
SAMPLES, TOKENS, LAYERS, EXPERTS, K = 196, 512, 16, 64, 8
SEGMENT_LENGTHS = (4, 16, 64, 256)
LOOKAHEAD_TOKENS = 16
ROUNDS = 3


def measure() -> list[Row]:
    ids = drifting_routing()

    def sch(**options):
        rule = {"policy": "sch", "variant": "reference", "lookahead": LOOKAHEAD_TOKENS}
        return cache_hits(ids, num_experts=EXPERTS, **rule, **options)

    times_s = median_times_s(
        {
            "srp": lambda: window_histograms(ids, num_experts=EXPERTS, segment_lengths=SEGMENT_LENGTHS),
            "sch": sch,
            "policies": lambda: [
                cache_hits(ids, num_experts=EXPERTS, policy=policy) for policy in ("lru", "lfu", "belady")
            ],
            "pooled": lambda: sch(pooled=True),
        },
        rounds=ROUNDS,
    )
    trace = f"{SAMPLES * TOKENS} tokens, {LAYERS} layers, {K} of {EXPERTS} experts, {num_cores()} cores"
    return [
        Row("srp_s", times_s["srp"], "s", f"m = 4, 16, 64, 256 together; {trace}"),
        Row("sch_s", times_s["sch"], "s", f"reference variant, m = {LOOKAHEAD_TOKENS}, all cache sizes; {trace}"),
        Row("lru_lfu_belady_s", times_s["policies"], "s", f"one after the other, all cache sizes; {trace}"),
        Row("pooled_sch_s", times_s["pooled"], "s", f"one cache of 1024 experts, all cache sizes; {trace}"),
    ]


def drifting_routing() -> np.ndarray:
    """(samples, tokens, layers, k) int16 ids in router order."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(SAMPLES, LAYERS, EXPERTS)).astype(np.float32)
    drift = np.zeros_like(taste)
    ids = np.empty((SAMPLES, TOKENS, LAYERS, K), np.int16)
    for token in range(TOKENS):
        drift = 0.9 * drift + 0.6 * rng.standard_normal(drift.shape, np.float32)
        wish = taste + drift
        chosen = np.argpartition(-wish, K, axis=-1)[..., :K]
        order = np.argsort(-np.take_along_axis(wish, chosen, axis=-1), axis=-1)
        ids[:, token] = np.take_along_axis(chosen, order, axis=-1)
    return ids
