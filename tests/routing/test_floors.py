import numpy as np
import pytest

from mindvl.routing import (
    cache_hits,
    measured_random_hit_rate,
    random_hit_rate,
    random_routing,
    random_srp,
    regret,
    segment_routing,
)


def test_random_routing_names_distinct_experts_equally_often():
    ids = random_routing(num_samples=3, num_tokens=2000, layers=2, num_experts=8, k=3, seed=1)
    assert ids.shape == (3, 2000, 2, 3) and (np.diff(np.sort(ids, axis=-1), axis=-1) > 0).all()
    assert np.bincount(ids[..., 0].ravel()) / ids[..., 0].size == pytest.approx(1 / 8, abs=0.01)
    with pytest.raises(ValueError, match="k is 9; a token chooses 1 to 8"):
        random_routing(num_samples=1, num_tokens=1, layers=1, num_experts=8, k=9)


def test_random_routing_scores_its_floor_when_windows_are_long():
    ids = random_routing(num_samples=20, num_tokens=512, layers=1, num_experts=16, k=4)
    found = segment_routing(ids, num_experts=16, segment_length=256, level="model").srp
    floor = random_srp(4 / 16)
    assert floor == pytest.approx(0.4) and floor <= found < floor + 0.02


def test_policies_that_know_only_the_past_hit_random_routing_in_c_of_e_cases():
    expected = random_hit_rate(16)
    for policy in ("lru", "lfu_atomic"):
        measured = measured_random_hit_rate(num_experts=16, k=2, policy=policy)
        assert measured[1:] == pytest.approx(expected[1:], abs=0.02)
    assert (
        measured_random_hit_rate(num_experts=16, k=2, policy="sch", lookahead=16)[3:12] > expected[3:12] + 0.09
    ).all()


def test_regret_is_the_share_of_the_best_hits_that_is_lost():
    ids = random_routing(num_samples=2, num_tokens=50, layers=1, num_experts=8, k=2)
    best = cache_hits(ids, num_experts=8, policy="belady_atomic").hits
    lru = cache_hits(ids, num_experts=8, policy="lru").hits
    lost = regret(lru, best)[0]
    assert lost[1] == lost[7] == 0 and (lost[2:7] > 0).all()  # no freedom at C = k, no misses at C = E
    assert lost[3] == pytest.approx(1 - lru[0, 3] / best[0, 3])
    assert np.isnan(regret(np.array([0]), np.array([0]))).all()
