"""The plan is a pure function that shows every sample as often as its weight says and never breaks a budget."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data import plan as plan_module
from mindvl.data.dataset import PackSampler
from mindvl.data.plan import PackBudget, PackPlan

BUDGET = PackBudget(tokens=50, patches=40, images=3)


def plan_of(samples, weights=(1.0,), *, budget=BUDGET, seed=0) -> PackPlan:
    """`samples` is a list of (tokens, patches, images) per source."""
    columns = np.asarray([sample for source in samples for sample in source], np.int64).reshape(-1, 3)
    return PackPlan(
        tokens=columns[:, 0],
        patches=columns[:, 1],
        images=columns[:, 2],
        source_starts=np.cumsum([0, *map(len, samples)]),
        weights=np.asarray(weights, np.float64),
        budget=budget,
        seed=seed,
    )


def uniform(size: int, tokens: int = 7):
    return [(tokens, 4, 1)] * size


def rows_of(packs):
    return [pack.tolist() for pack in packs]


def first(iterator, count):
    return rows_of(itertools.islice(iterator, count))


sample = st.tuples(st.integers(1, 50), st.integers(0, 40), st.integers(0, 3))
sources = st.lists(st.lists(sample, min_size=1, max_size=30), min_size=1, max_size=3)


@settings(deadline=None, max_examples=100)
@given(sources, st.integers(0, 5), st.integers(0, 3))
def test_a_round_with_weight_1_holds_every_sample_once_within_all_budgets(samples, seed, number):
    plan = plan_of(samples, [1.0] * len(samples), seed=seed)
    packs = plan.round(number)
    assert sorted(row for pack in packs for row in pack) == list(range(len(plan.tokens)))
    for pack in packs:
        assert plan.tokens[pack].sum() <= 50 and plan.patches[pack].sum() <= 40 and plan.images[pack].sum() <= 3


@settings(deadline=None, max_examples=30)
@given(sources, st.integers(0, 5))
def test_windows_of_a_round_lose_no_sample(samples, seed):
    plan = plan_of(samples, [1.0] * len(samples), seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "WINDOW_SAMPLES", 7)
        assert sorted(row for pack in plan.round(0) for row in pack) == list(range(len(plan.tokens)))


@pytest.mark.parametrize(("weight", "rounds", "times"), [(0.5, 2, 1), (2.0, 1, 2), (1.5, 2, 3), (0.1, 10, 1)])
def test_a_weight_is_the_number_of_passes_per_round(weight, rounds, times):
    plan = plan_of([uniform(20), uniform(9)], [weight, 1.0])
    seen = Counter(row for number in range(rounds) for pack in plan.round(number) for row in pack.tolist())
    assert {seen[row] for row in range(20)} == {times} and {seen[row] for row in range(20, 29)} == {rounds}


def test_a_weight_of_zero_leaves_a_source_out():
    plan = plan_of([uniform(5), uniform(5)], [0.0, 1.0])
    assert sorted(row for pack in plan.round(0) for row in pack) == [5, 6, 7, 8, 9]


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(ValueError, match="round 0 of the plan holds 0 samples"):
        plan_of([uniform(5)], [0.0]).round(0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), sources)
def test_the_packs_from_any_number_on_are_the_tail_of_all_packs(start, samples):
    plan = plan_of(samples, [1.0] * len(samples))
    assert first(plan.packs(start), 20) == first(plan.packs(), start + 20)[start:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 3])
def test_any_number_of_ranks_sees_the_same_packs_in_the_same_global_order(world_size, start):
    plan, count = plan_of([uniform(23, tokens=17)]), 8
    samplers = [PackSampler(plan, count=count, start=start, rank=r, world_size=world_size) for r in range(world_size)]
    by_rank = [list(sampler) for sampler in samplers]
    assert {len(packs) for packs in by_rank} == {count - start} and {len(sampler) for sampler in samplers} == {count}
    together = [pack for step in zip(*by_rank, strict=True) for pack in step]
    assert together == first(plan.packs(), count * world_size)[start * world_size :]


def test_one_rank_with_twice_the_packs_sees_what_two_ranks_see():
    plan = plan_of([uniform(23, tokens=17)])
    one = list(PackSampler(plan, count=12))
    ranks = [list(PackSampler(plan, count=6, rank=rank, world_size=2)) for rank in range(2)]
    assert one == [pack for step in zip(*ranks, strict=True) for pack in step]


def test_equal_fields_give_equal_plans_and_fingerprints():
    one, other = (plan_of([uniform(30), uniform(7)], [1.0, 0.5]) for _ in range(2))
    assert one.fingerprint == other.fingerprint and first(one.packs(), 30) == first(other.packs(), 30)
    one.round(3)
    assert first(one.packs(), 30) == first(other.packs(), 30)


def test_every_field_changes_the_fingerprint():
    plan = plan_of([uniform(30), uniform(7)], [1.0, 0.5])
    others = [
        dataclasses.replace(plan, seed=1),
        dataclasses.replace(plan, weights=np.asarray([0.5, 1.0])),
        dataclasses.replace(plan, tokens=plan.tokens + 1),
        dataclasses.replace(plan, patches=plan.patches + 1),
        dataclasses.replace(plan, images=plan.images + 1),
        dataclasses.replace(plan, source_starts=np.asarray([0, 20, 37])),
        dataclasses.replace(plan, budget=dataclasses.replace(BUDGET, tokens=51)),
        dataclasses.replace(plan, budget=dataclasses.replace(BUDGET, patches=41)),
        dataclasses.replace(plan, budget=dataclasses.replace(BUDGET, images=4)),
    ]
    assert len({plan.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_rounds_and_seeds_have_their_own_order():
    plan = plan_of([uniform(50)])
    assert rows_of(plan.round(0)) != rows_of(plan.round(1)) != rows_of(dataclasses.replace(plan, seed=1).round(1))


def test_the_toy_window_of_the_docstring_is_packed_as_it_shows():
    samples = [(6, 8, 0), (5, 0, 0), (4, 4, 0), (3, 4, 0), (2, 0, 0)]
    plan = plan_of([samples], budget=PackBudget(10, 8))
    packs = {tuple(sorted("abcde"[row] for row in pack)) for pack in plan.round(0)}
    assert packs == {("a", "e"), ("b", "c"), ("d",)}


def test_packs_of_many_short_samples_are_nearly_full():
    rng = np.random.default_rng(0)
    plan = plan_of([[(tokens, 0, 0) for tokens in rng.integers(20, 200, 1000).tolist()]], budget=PackBudget(1024, 1))
    fill = [plan.tokens[pack].sum() / 1024 for pack in plan.round(0)]
    assert np.mean(fill) > 0.98


@pytest.mark.parametrize("name", ["tokens", "patches", "images"])
def test_a_budget_of_nothing_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"budget of {name} is 0"):
        PackBudget(**{"tokens": 1, "patches": 1, "images": 1, name: 0})
