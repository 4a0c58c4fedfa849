"""The bootstrap's interval against the normal approximation, and what may not move it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.eval.bootstrap import Interval, bootstrap_interval


def test_a_share_of_three_quarters_of_400_has_the_interval_of_the_binomial():
    found = bootstrap_interval([1.0] * 300 + [0.0] * 100, resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (found.low, found.high) == (pytest.approx(0.75 - half, abs=0.006), pytest.approx(0.75 + half, abs=0.006))


def test_the_docstrings_example_holds():
    found = bootstrap_interval([1.0] * 300 + [0.0] * 100)
    assert (round(found.low, 3), round(found.high, 3)) == (0.708, 0.792)


def test_equal_scores_have_an_interval_of_no_width():
    assert bootstrap_interval([0.25] * 7) == Interval(0.25, 0.25, 0.95)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=1, max_size=30), st.randoms())
def test_the_order_of_scores_does_not_matter_and_bounds_enclose_means_in_range(scores, order):
    shuffled = scores.copy()
    order.shuffle(shuffled)
    found = bootstrap_interval(scores)
    assert found == bootstrap_interval(shuffled)
    assert min(scores) - 1e-12 <= found.low <= found.high <= max(scores) + 1e-12


def test_strata_weigh_the_same_and_are_redrawn_within_themselves():
    scores, labels = [1.0] * 90 + [0.0] * 10, ["large"] * 90 + ["small"] * 10
    found = bootstrap_interval(scores, strata=labels)
    assert (found.low, found.high) == (0.5, 0.5)


def test_another_seed_draws_other_samples():
    scores = [0.0, 0.1, 0.7, 1.0] * 5
    assert bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)


@pytest.mark.parametrize(
    ("scores", "settings", "complaint"),
    [
        ([], {}, "0 scores and 0 labels"),
        ([1.0], {"strata": ["a", "b"]}, "1 scores and 2 labels"),
        ([1.0], {"resamples": 10}, "10 resamples leave 0 outside each end of a 0.95 interval"),
    ],
)
def test_what_has_no_interval_is_refused(scores, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        bootstrap_interval(scores, **settings)
