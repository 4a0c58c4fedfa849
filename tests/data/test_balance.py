"""Packs of a step cost alike; those left over are spread, and nothing is lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data.balance import group_into_steps, spread
from mindvl.data.cost import CostModel, max_over_mean


def rng():
    return np.random.default_rng(3)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 200), st.integers(1, 9))
def test_every_pack_is_in_one_step_or_left_over(packs, packs_per_step):
    cost = np.random.default_rng(packs).random((2, packs))
    steps, left = group_into_steps(*cost, packs_per_step=packs_per_step, rng=rng())
    assert steps.shape == (packs // packs_per_step, packs_per_step) and len(left) == packs % packs_per_step
    assert sorted([*steps.ravel(), *left]) == list(range(packs))


def test_costs_of_a_step_are_even_in_the_language_model_and_in_the_tower():
    language, vision = rng().lognormal(0, 0.2, 4096), rng().lognormal(0, 0.5, 4096)
    steps, _ = group_into_steps(language, vision, packs_per_step=8, rng=rng())
    shuffled = rng().permutation(4096).reshape(-1, 8)
    for cost, even, uneven in ((language, 1.03, 1.2), (vision, 1.1, 1.5), (language + vision, 1.06, 1.2)):
        assert max_over_mean(cost[steps]) < even < uneven < max_over_mean(cost[shuffled])


def test_steps_are_not_in_the_order_of_their_cost():
    cost = np.arange(400.0)
    steps, _ = group_into_steps(cost, cost, packs_per_step=4, rng=rng())
    means = steps.mean(axis=1)
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


def needs(tokens):
    return np.stack([np.asarray(tokens), np.zeros(len(tokens), int), np.zeros(len(tokens), int)], axis=1)


def test_a_pack_that_is_left_over_is_spread_over_all_ranks_by_cost():
    cost = np.asarray([8.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    packs = spread([np.arange(6)], over=3, cost=cost, needs=needs([1] * 6), capacity=(6, 1, 1))
    # dearest first onto the cheapest: 8 | 5 | 4, then 3 onto 4, 2 onto 5, 1 onto one of the sevens
    assert [pack.tolist() for pack in packs] == [[0], [1, 4, 5], [2, 3]]


def test_fewer_samples_than_packs_leave_packs_empty():
    packs = spread([np.asarray([1])], over=3, cost=np.ones(2), needs=needs([1, 1]), capacity=(6, 1, 1))
    assert sorted(len(pack) for pack in packs) == [0, 0, 1]


def test_samples_that_go_together_in_no_other_way_stay_in_their_packs():
    # 3 packs of 10 over 4: dearest first fills every pack beyond the room that the last one needs.
    tokens, cost = np.asarray([6, 6, 6, 4, 4, 4, 6, 4]), np.asarray([1, 1, 1, 9, 9, 9, 0.1, 9])
    packs = [np.asarray([0, 3]), np.asarray([1, 4]), np.asarray([2, 5])]
    kept = spread(packs, over=4, cost=cost, needs=needs(tokens), capacity=(10, 1, 1))
    assert sorted(row for pack in kept for row in pack.tolist()) == [0, 1, 2, 3, 4, 5] and len(kept) == 4
    assert all(tokens[pack].sum() <= 10 for pack in kept)


def test_the_cost_of_a_document_and_of_a_picture_by_hand():
    cost = CostModel(token=2, token_pair=0.5, patch=3, patch_pair=0.25)
    assert cost.language(np.asarray([4, 10])).tolist() == [8 + 8, 20 + 50]
    assert cost.vision(np.asarray([0, 4])).tolist() == [0, 12 + 4]


def test_max_over_mean_is_a_mean_over_steps_and_leaves_empty_ones_out():
    assert max_over_mean(np.asarray([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]])) == pytest.approx((1.5 + 1) / 2)
