"""What routing without any consistency would score, and what a perfect cache would: the two ends of the scale.

Random routing sends each token to k of E experts, all alike. With activation r = k / E:

    SRP        at least 2r / (1 + r), what choosing every expert everywhere scores: 0.222 for 8 of 64
    hit rate   C / E for a full cache whose policy knows only the past: whatever it holds, it holds C of E at random.
               A policy that looks ahead does better on random routing too; its floor is measured, not derived

At the other end, no atomic replay has more hits than `belady_atomic` (for C >= k): what is lost against it is regret.
"""

from __future__ import annotations

import numpy as np

from mindvl.routing.cache import cache_hits


def random_srp(activation: np.ndarray | float) -> np.ndarray | float:
    """2r / (1 + r): the SRP of the rule that always chooses, for activation r; no routing scores less."""
    return 2 * activation / (1 + activation)


def random_hit_rate(num_experts: int) -> np.ndarray:
    """(experts) C / E: hit rate of a full cache under random routing, for policies that know only the past."""
    return np.arange(1, num_experts + 1) / num_experts


def random_routing(
    *, num_samples: int, num_tokens: int, layers: int, num_experts: int, k: int, seed: int = 0
) -> np.ndarray:
    """(samples, tokens, layers, k) int32 ids of random routing, in random order of slots."""
    if not 1 <= k <= num_experts:
        raise ValueError(f"k is {k}; a token chooses 1 to {num_experts} of {num_experts} experts")
    noise = np.random.default_rng(seed).random((num_samples * num_tokens * layers, num_experts), dtype=np.float32)
    chosen = np.argsort(noise, axis=-1)[:, :k].astype(np.int32)
    return chosen.reshape(num_samples, num_tokens, layers, k)


def measured_random_hit_rate(
    *,
    num_experts: int,
    k: int,
    policy: str,
    variant: str = "atomic",
    lookahead: int | None = None,
    num_tokens: int = 512,
    num_samples: int = 16,
    seed: int = 0,
) -> np.ndarray:
    """(experts) hit rate of a policy under random routing, cold misses free, from a simulation of one layer."""
    ids = random_routing(
        num_samples=num_samples, num_tokens=num_tokens, layers=1, num_experts=num_experts, k=k, seed=seed
    )
    return cache_hits(ids, num_experts=num_experts, policy=policy, variant=variant, lookahead=lookahead).hit_rate[0]


def regret(hits: np.ndarray, best_hits: np.ndarray) -> np.ndarray:
    """Share of the best policy's hits that another one misses, 1 - hits / best hits; NaN where the best has none."""
    return np.where(best_hits > 0, 1 - hits / np.maximum(best_hits, 1), np.nan)
