"""The plan is a pure function that loses and repeats nothing, whoever reads it and wherever they begin."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data.cost import max_over_mean
from mindvl.data.mixture import Earlier, Source, mix
from mindvl.data.plan import PackBudget, PackPlan
from mindvl.data.sampler import PackSampler

BUDGET = PackBudget(tokens=50, patches=40, images=3)


def plan_of(
    samples, sources=None, *, budget=BUDGET, seed=0, packs_per_step=1, weigh_by="epochs", earlier=None
) -> PackPlan:
    """`samples` is a list of (tokens, patches, images) per source; `sources` what their `Source`s say."""
    columns = np.asarray([sample for source in samples for sample in source], np.int32).reshape(-1, 3)
    starts = np.cumsum([0, *map(len, samples)])
    described = [Source("x", **source) for source in sources or [{}] * len(samples)]
    return PackPlan(
        tokens=columns[:, 0],
        patches=columns[:, 1],
        images=columns[:, 2],
        language_cost=(columns[:, 0] * 1.5).astype(np.float32),
        vision_cost=columns[:, 1].astype(np.float32),
        mixture=mix(described, starts, columns[:, 0], weigh_by=weigh_by, seed=seed, earlier=earlier),
        budget=budget,
        packs_per_step=packs_per_step,
        seed=seed,
    )


def after(epochs, drawn, reached=None) -> Earlier:
    """A run that takes up a new plan with epoch number `epochs`."""
    return Earlier(epochs, np.asarray(drawn), np.asarray(reached or drawn))


def uniform(size: int, tokens: int = 7):
    return [(tokens, 4, 1)] * size


def first(iterator, count):
    return [pack.tolist() for pack in itertools.islice(iterator, count)]


sample = st.tuples(st.integers(1, 50), st.integers(0, 40), st.integers(0, 3))
sources = st.lists(st.lists(sample, min_size=1, max_size=30), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(sources, st.integers(0, 5), st.integers(0, 3), st.integers(1, 9))
def test_an_epoch_holds_every_sample_once_within_all_budgets_in_whole_steps(samples, seed, number, packs_per_step):
    plan = plan_of(samples, seed=seed, packs_per_step=packs_per_step)
    epoch = plan.epoch(number)
    assert sorted(epoch.rows.tolist()) == list(range(len(plan.tokens))) and len(epoch) % packs_per_step == 0
    for column, limit in ((plan.tokens, 50), (plan.patches, 40), (plan.images, 3)):
        sums = epoch.sums(column)
        assert sums.max(initial=0) <= limit
        assert sums.tolist() == [column[epoch.pack(p)].sum() for p in range(len(epoch))]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), sources, st.integers(1, 4))
def test_the_packs_from_any_number_on_are_the_tail_of_all_packs(start, samples, packs_per_step):
    plan = plan_of(samples, packs_per_step=packs_per_step)
    assert first(plan.packs(start), 20) == first(plan.packs(), start + 20)[start:]


@settings(deadline=None, max_examples=40)
@given(sources, st.integers(0, 12), st.integers(0, 20))
def test_times_drawn_are_counted_by_going_through_the_packs(samples, start, length):
    plan = plan_of(samples, packs_per_step=2)
    rows = [row for pack in first(plan.packs(start), length) for row in pack]
    assert np.array_equal(plan.times_drawn(start, start + length), np.bincount(rows, minlength=len(plan.tokens)))


@settings(deadline=None, max_examples=60)
@given(sources, st.integers(1, 5), st.integers(0, 9), st.integers(1, 6))
def test_any_number_of_ranks_reads_the_same_packs_in_the_same_global_order(samples, ranks, start, count):
    plan = plan_of(samples, packs_per_step=ranks)
    by_rank = [list(PackSampler(plan, count=count, start=start, rank=rank, world_size=ranks)) for rank in range(ranks)]
    assert [pack for step in zip(*by_rank, strict=True) for pack in step] == first(plan.packs(start), count * ranks)


def test_one_rank_with_twice_the_packs_sees_what_two_ranks_see():
    plan = plan_of([uniform(23, tokens=17)], packs_per_step=2)
    one = list(PackSampler(plan, count=12))
    ranks = [list(PackSampler(plan, count=6, rank=rank, world_size=2)) for rank in range(2)]
    assert one == [pack for step in zip(*ranks, strict=True) for pack in step]


def test_equal_fields_give_equal_plans_and_fingerprints():
    one, other = (plan_of([uniform(30), uniform(7)], [{}, {"weight": 0.5}]) for _ in range(2))
    assert one.fingerprint == other.fingerprint and first(one.packs(), 30) == first(other.packs(), 30)
    one.epoch(3)
    assert first(one.packs(), 30) == first(other.packs(), 30)


def test_every_field_changes_the_fingerprint():
    samples = [uniform(30), uniform(7)]
    plan = plan_of(samples)
    others = [
        plan_of(samples, seed=1),
        plan_of(samples, [{}, {"weight": 0.5}]),
        plan_of(samples, [{}, {"max_samples": 6}]),
        plan_of(samples, [{}, {"max_epochs": 2.0}]),
        plan_of([uniform(20), uniform(17)]),
        plan_of(samples, packs_per_step=2),
        plan_of(samples, earlier=after(1, [0, 0])),
        plan_of(samples, earlier=after(0, [3, 0])),
        plan_of(samples, [{}, {"max_epochs": 2.0}], earlier=after(0, [0, 7], [0, 0])),
        *(dataclasses.replace(plan, **{name: getattr(plan, name) + 1}) for name in ("tokens", "patches", "images")),
        *(dataclasses.replace(plan, **{name: getattr(plan, name) + 1}) for name in ("language_cost", "vision_cost")),
        *(
            dataclasses.replace(plan, budget=dataclasses.replace(BUDGET, **{n: 99}))
            for n in ("tokens", "patches", "images")
        ),
    ]
    assert len({plan.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_epochs_and_seeds_have_their_own_order():
    plan, other = plan_of([uniform(50)]), plan_of([uniform(50)], seed=1)
    orders = [tuple(p.epoch(number).rows.tolist()) for p in (plan, other) for number in range(2)]
    assert len(set(orders)) == 4


def test_a_plan_that_begins_later_is_the_tail_of_the_plan():
    samples = [uniform(30), uniform(9)]
    whole = plan_of(samples, [{"weight": 0.5}, {}])
    late = plan_of(samples, [{"weight": 0.5}, {}], earlier=after(3, [45, 27]))
    begin = sum(len(whole.epoch(number)) for number in range(3))
    assert first(late.packs(), 25) == first(whole.packs(begin), 25)


def test_packs_of_a_step_cost_alike_on_every_rank():
    rng = np.random.default_rng(0)
    samples = [(int(t), int(p), 1) for t, p in zip(rng.integers(3, 300, 5000), rng.integers(0, 400, 5000), strict=True)]
    plan = plan_of([samples], budget=PackBudget(1024, 4096), packs_per_step=8)
    epoch = plan.epoch(0)
    cost = (epoch.sums(plan.language_cost) + epoch.sums(plan.vision_cost)).reshape(-1, 8)
    unordered = rng.permutation(cost.ravel()).reshape(-1, 8)
    assert max_over_mean(cost) < 1.02 < 1.1 < max_over_mean(unordered)


def test_the_last_step_of_an_epoch_gives_every_rank_a_share_of_what_is_left():
    plan = plan_of([uniform(4 * 7 + 5)], budget=PackBudget(49, 1000), packs_per_step=4)
    epoch = plan.epoch(0)
    sizes = [len(epoch.pack(number)) for number in range(len(epoch))]
    assert len(sizes) == 8 and min(sizes[4:]) >= 1 and max(sizes[4:]) == 2 and min(sizes[:4]) >= 5


def test_a_plan_whose_sources_all_have_limits_ends():
    plan = plan_of([[(7, 0, 0)] * 14], [{"max_epochs": 2.5}])  # two packs of seven samples an epoch
    assert len(first(plan.packs(), 100)) == 5 and first(plan.packs(3), 100) == first(plan.packs(), 100)[3:]
    with pytest.raises(ValueError, match="the plan ends before pack 5: every source has reached its max_epochs"):
        PackSampler(plan, count=3, world_size=2)
    assert len(list(PackSampler(plan, count=5))) == 5


def test_a_source_with_little_weight_waits_for_an_epoch_that_draws_it():
    plan = plan_of([uniform(10)], [{"weight": 0.01}])
    (pack,) = first(plan.packs(), 1)
    assert len(pack) == 1


@pytest.mark.parametrize("name", ["tokens", "patches", "images"])
def test_a_budget_of_nothing_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"budget of {name} is 0"):
        PackBudget(**{"tokens": 1, "patches": 1, "images": 1, name: 0})
