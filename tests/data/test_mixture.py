"""What an epoch draws follows the weights, whatever they count, and a limit is kept over the whole run."""

from collections import Counter

import numpy as np
import pytest

import mindvl.data.mixture as mixing
from mindvl.data.mixture import Earlier, Source, mix

STARTS = np.asarray([0, 100, 140])  # 100 samples of 10 tokens, 40 of 50
TOKENS = np.asarray([10] * 100 + [50] * 40)


def mixture(*sources: dict, weigh_by="epochs", seed=0, earlier=None):
    described = [Source("x", **source) for source in sources]
    return mix(described, STARTS, TOKENS, weigh_by=weigh_by, seed=seed, earlier=earlier)


def drawn(mixed, epochs):
    """Times each row is drawn in the first epochs."""
    first = mixed.first_epoch
    return np.bincount(
        np.concatenate([mixed.draw(epoch) for epoch in range(first, first + epochs)] or [np.zeros(0, int)]),
        minlength=140,
    )


def test_weights_by_epochs_are_passes():
    times = drawn(mixture({"weight": 0.5}, {"weight": 2.0}), 4)
    assert (times[:100] == 2).all() and (times[100:] == 8).all()


@pytest.mark.parametrize(("weigh_by", "share_of"), [("samples", np.ones(140)), ("tokens", TOKENS)])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 9)])
def test_weights_by_samples_or_tokens_are_shares_of_what_is_drawn(weights, weigh_by, share_of):
    mixed = mixture(*({"weight": float(w)} for w in weights), weigh_by=weigh_by)
    times = drawn(mixed, 30) * share_of
    assert times[100:].sum() / times.sum() == pytest.approx(weights[1] / sum(weights), rel=0.02)


def test_a_weighted_epoch_ends_when_the_first_source_has_been_seen_once():
    mixed = mixture({"weight": 1.0}, {"weight": 1.0}, weigh_by="tokens")  # 1,000 tokens against 2,000
    times = drawn(mixed, 1)
    assert (times[:100] == 1).all() and times[100:].sum() == 20 and times[100:].max() == 1
    assert (drawn(mixed, 2)[100:] == 1).all()


def test_the_example_of_the_module_is_right():
    starts, tokens = np.asarray([0, 1000, 5000]), np.asarray([900] * 1000 + [100] * 4000)
    mixed = mix([Source("d"), Source("c")], starts, tokens, weigh_by="tokens", seed=0)
    assert [int((mixed.draw(0) < 1000).sum()), int((mixed.draw(0) >= 1000).sum())] == [444, 4000]
    assert 1 / mixed.passes[0] == pytest.approx(2.25)


def test_every_pass_has_its_own_order_and_no_sample_comes_twice_before_all_came_once():
    mixed = mixture({"weight": 0.3}, {"weight": 0.0})
    seen = np.concatenate([mixed.draw(epoch) for epoch in range(10)])
    assert sorted(seen[:90]) != sorted(seen[90:180]) and Counter(seen.tolist()) == Counter(dict.fromkeys(range(100), 3))


def test_max_samples_keeps_the_same_choice_in_every_epoch():
    times = drawn(mixture({"max_samples": 30}, {}), 5)
    assert sorted(Counter(times[:100].tolist()).items()) == [(0, 70), (5, 30)] and (times[100:] == 5).all()
    other = drawn(mixture({"max_samples": 30}, {}, seed=1), 5)
    assert (other[:100] != times[:100]).any()


def test_max_epochs_ends_a_source_over_the_run_and_leaves_the_others():
    mixed = mixture({"max_epochs": 1.5}, {})
    assert [int((mixed.draw(epoch) < 100).sum()) for epoch in range(4)] == [100, 50, 0, 0]
    assert [int((mixed.draw(epoch) >= 100).sum()) for epoch in range(4)] == [40] * 4


def earlier(epochs, really, reached=None):
    return Earlier(epochs, np.asarray(really), np.asarray(reached or really))


def test_max_epochs_of_a_source_that_joins_later_begin_when_it_joins():
    times = drawn(mixture({}, {"max_epochs": 1}, earlier=earlier(2, [200, 0])), 3)
    assert (times[:100] == 3).all() and (times[100:] == 1).all()


@pytest.mark.parametrize(
    ("seen", "weight", "more"),
    [(12, 1.0, 68), (80, 0.25, 0), (30, 0.25, 50), (131, 1.0, 0)],
    ids=["more weight", "less weight, all seen", "less weight", "more seen than allowed"],
)
def test_what_was_really_drawn_under_other_weights_counts_towards_max_epochs(seen, weight, more):
    mixed = mixture({}, {"weight": weight, "max_epochs": 2}, earlier=earlier(3, [300, seen]))
    assert drawn(mixed, 10)[100:].sum() == more
    assert not mixed.is_exhausted(20)  # the other source has no limit
    alone = mixture({"weight": 0.0}, {"weight": weight, "max_epochs": 2}, earlier=earlier(3, [300, seen]))
    assert alone.is_exhausted(3 + 8) and alone.is_exhausted(3) == (more == 0)


def test_the_passes_over_a_source_go_on_where_the_earlier_epochs_would_have_ended():
    whole = mixture({"weight": 0.3}, {})
    late = mixture({"weight": 0.6}, {}, earlier=earlier(2, [45, 70], [60, 80]))
    times = sum(np.bincount(rows, minlength=140) for rows in (whole.draw(0), whole.draw(1), late.draw(2)))
    assert sorted(times[:100].tolist()) == [1] * 80 + [2] * 20 and (times[100:] == 3).all()


def test_a_draw_is_a_pure_function_of_seed_and_epoch():
    assert np.array_equal(mixture({}, {}).draw(7), mixture({}, {}).draw(7))
    assert not np.array_equal(mixture({}, {}).draw(7), mixture({}, {}, seed=1).draw(7))
    assert not np.array_equal(mixture({}, {}).draw(7), mixture({}, {}).draw(8))


def test_a_mixture_of_nothing_is_refused_with_its_weights():
    with pytest.raises(ValueError, match=r"the mixture holds 0 samples: weights are \[0\.0, 0\.0\], sizes \[100, 40\]"):
        mixture({"weight": 0.0}, {"weight": 0.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"max_samples": 0},
        {"max_epochs": 0.0},
        {"max_epochs": float("inf")},
    ],
)
def test_a_source_with_an_impossible_number_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"source data/\*\.tar: {name} is"):
        Source("data/*.tar", **wrong)


def test_many_rows_are_shuffled_by_buckets_and_every_place_is_as_likely(monkeypatch):
    from scipy.stats import chisquare

    monkeypatch.setattr(mixing, "_IN_CACHE_ROWS", 4)
    monkeypatch.setattr(mixing, "_BUCKET_ROWS", 2)
    rng = np.random.default_rng(3)
    places = np.zeros((6, 6), int)
    for _ in range(3000):
        shuffled = mixing._shuffled(np.arange(6), rng)
        assert sorted(shuffled.tolist()) == list(range(6))
        places[np.arange(6), shuffled] += 1
    assert chisquare(places.reshape(-1)).pvalue > 0.001
