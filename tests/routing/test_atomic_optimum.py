"""When a token needs its experts together, no choice of evictions has more hits than Belady's, and SCH keeps below."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.routing.cache import cache_hits


def most_hits(tokens, size):
    """Over every way to evict: after a token the cache holds it, and any of what it held before, up to its size."""
    best, seen = {frozenset(): 0}, set()
    for experts in tokens:
        wanted = frozenset(int(expert) for expert in experts)
        free = 0
        for expert in sorted(wanted - seen):
            free += len(seen) < size
            seen.add(expert)
        following = {}
        for held, hits in best.items():
            hits += len(held & wanted) + free
            others = held - wanted
            for number in range(min(len(others), size - len(wanted)) + 1):
                for kept in itertools.combinations(sorted(others), number):
                    state = wanted.union(kept)
                    following[state] = max(following.get(state, -1), hits)
        best = following
    return max(best.values())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), experts=st.integers(2, 6), tokens=st.integers(1, 9), data=st.data())
def test_atomic_belady_is_the_optimum_and_no_atomic_policy_exceeds_it(seed, experts, tokens, data):
    k = data.draw(st.integers(1, experts))
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((1, tokens, 1, experts)), axis=-1)[..., :k]
    optimum = [most_hits(ids[0, :, 0], size) for size in range(k, experts + 1)]

    def curve(policy, **rule):
        return cache_hits(ids, num_experts=experts, policy=policy, **rule).hits[0, k - 1 :]

    assert curve("belady_atomic").tolist() == optimum
    for lookahead in (1, 2, 4, 20):
        assert (curve("sch", lookahead=lookahead) <= optimum).all()
    assert (curve("lru") <= optimum).all() and (curve("lfu_atomic") <= optimum).all()


def test_the_order_of_slots_changes_the_reference_and_not_the_atomic_optimum():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((4, 60, 1, 8)), axis=-1)[..., :3]
    sorted_slots = np.sort(ids, axis=-1)

    def hits(of, policy, variant="atomic"):
        return cache_hits(of, num_experts=8, policy=policy, variant=variant, lookahead=4).hits[0, 2:].tolist()

    assert hits(ids, "belady_atomic") == hits(sorted_slots, "belady_atomic")
    assert hits(ids, "sch", "reference") != hits(sorted_slots, "sch", "reference")
