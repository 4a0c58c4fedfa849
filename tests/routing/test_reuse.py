import numpy as np
import pytest

from mindvl.routing import (
    cache_hits,
    consecutive_reuse,
    expert_lifetime,
    random_routing,
    window_histograms,
    working_set,
)

WORKED = np.array([[0, 1], [1, 2], [1, 2]]).reshape(1, 3, 1, 2)


def test_the_worked_example_reuses_three_requests_of_four():
    found = consecutive_reuse(WORKED, num_experts=4)
    assert found.requests.tolist() == [0.75] and found.any_choice.tolist() == [1.0]
    assert found.first_choice.tolist() == [0.5]
    assert (found.chance_requests, found.chance_first_choice) == (0.5, 0.25)
    assert found.chance_any_choice == pytest.approx(1 - (2 / 4) * (1 / 3))


def test_random_routing_reuses_at_chance():
    found = consecutive_reuse(
        random_routing(num_samples=4, num_tokens=5000, layers=2, num_experts=8, k=2), num_experts=8
    )
    assert found.requests == pytest.approx(found.chance_requests, abs=0.01)
    assert found.first_choice == pytest.approx(found.chance_first_choice, abs=0.01)
    assert found.any_choice == pytest.approx(found.chance_any_choice, abs=0.01)


def test_the_last_token_of_a_sample_is_no_neighbour_of_the_first_of_the_next():
    apart = consecutive_reuse([WORKED[0, :1], WORKED[0, 1:2], WORKED[0, 2:]], num_experts=4)
    assert np.isnan(apart.requests).all()
    ids = np.array([[0, 1], [2, 3]]).repeat(2, axis=0).reshape(2, 2, 1, 2)
    assert consecutive_reuse(ids, num_experts=4).requests.tolist() == [1.0]


def test_dropped_slots_ask_for_nothing_and_are_never_shared():
    ids = np.array([[0, 1], [-1, 1], [-1, 2]]).reshape(1, 3, 1, 2)
    found = consecutive_reuse(ids, num_experts=4, allow_dropped=True)
    assert (found.requests[0], found.first_choice[0], found.any_choice[0]) == (0.5, 0.0, 0.5)
    assert expert_lifetime(ids, num_experts=4, allow_dropped=True)[0, 1:].tolist() == [6 / 3, 7 / 3, 7 / 3]


def test_the_working_set_is_the_mean_number_of_different_experts_in_a_window():
    histogram = window_histograms(WORKED, num_experts=4, segment_lengths=(1, 2, 3, 4))
    means = [working_set(histogram[length])[0, 0] for length in (1, 2, 3)]
    assert means == [2.0, 2.5, 3.0] and np.isnan(working_set(histogram[4])).all()


def test_a_lifetime_is_counted_from_load_to_eviction_or_the_end():
    """C = 1, k = 1: every change of expert is a load, so lifetimes are the lengths of runs."""
    ids = np.array([0, 0, 0, 1, 1, 0, 2, 2]).reshape(1, 8, 1, 1)
    found = expert_lifetime(ids, num_experts=3)
    # C = 2: loads 0 (8 tokens, minus what follows), 1, 2: resident 1 1 1 2 2 2 2 2 = 13 over 3 loads. C = 3: 15 over 3.
    assert found.tolist() == [[8 / 4, 13 / 3, 15 / 3]]


@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "sch"])
def test_lifetimes_equal_those_of_experts_followed_one_by_one(policy):
    ids = random_routing(num_samples=2, num_tokens=30, layers=1, num_experts=6, k=2)
    found = expert_lifetime(ids, num_experts=6, policy=policy, lookahead=3)
    assert np.isnan(found[0, 0]) and not np.isnan(found[0, 1:]).any()
    # At C = k the cache is the last token's experts, whatever the policy.
    loads = sum(
        len(set(now) - set(before)) for sample in ids for before, now in zip(sample[:, 0], sample[1:, 0], strict=False)
    )
    assert found[0, 1] == pytest.approx(2 * 60 / (loads + 4))
    names = {"lfu": "lfu_atomic", "belady": "belady_atomic"}
    counted = cache_hits(ids, num_experts=6, policy=names.get(policy, policy), lookahead=3, cold_misses="counted")
    seen = [[len(np.unique(sample[: token + 1])) for token in range(30)] for sample in ids]
    for size in (3, 4, 6):
        resident = np.minimum(seen, size).sum()
        assert found[0, size - 1] == pytest.approx(resident / (120 - counted.hits[0, size - 1]))


def test_lifetimes_of_an_unknown_policy_are_refused():
    with pytest.raises(ValueError, match="unknown policy 'pinned'; lifetimes are known of lru"):
        expert_lifetime(WORKED, num_experts=4, policy="pinned")
