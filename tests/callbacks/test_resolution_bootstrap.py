import numpy as np
import pytest
from mindvl_callbacks.resolution_bootstrap import estimate, mean_of_strata

from mindvl.eval.bootstrap import bootstrap_interval


def test_the_interval_of_a_share_is_that_of_the_other_bootstrap_of_this_project():
    scores = [1.0] * 300 + [0.0] * 100
    ours, theirs = estimate(scores, [""] * 400, resamples=4000), bootstrap_interval(scores, resamples=4000)
    assert ours.score == 0.75
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_strata_are_redrawn_within_themselves():
    scores, strata = [1.0] * 30 + [0.0] * 30, ["easy"] * 30 + ["hard"] * 30
    alone = estimate(scores, strata)
    assert (alone.score, alone.low, alone.high) == (0.5, 0.5, 0.5)
    mixed = estimate(scores, [""] * 60)
    assert mixed.low < 0.42 and mixed.high > 0.58


def test_a_paired_difference_is_as_wide_as_what_differs():
    gains = [1.0] * 8 + [-1.0] * 2 + [0.0] * 90
    paired = estimate(gains, [""] * 100, resamples=4000)
    assert (paired.score, paired.low, paired.high) == (pytest.approx(0.06), pytest.approx(0.0), pytest.approx(0.12))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        found = estimate(random.normal(0.5, 0.2, 60).tolist(), [""] * 60, resamples=400, seed=trial)
        inside += found.low <= 0.5 <= found.high
    assert 180 <= inside <= 198  # 190 are meant


def test_the_seed_decides():
    scores = list(np.random.default_rng(1).random(50))
    first = estimate(scores, [""] * 50, seed=3)
    assert first == estimate(scores, [""] * 50, seed=3)
    assert first != estimate(scores, [""] * 50, seed=4)


def test_the_mean_does_not_depend_on_the_order():
    scores = [0.1] * 3 + [0.7] * 7
    assert mean_of_strata(scores, [""] * 10) == mean_of_strata(scores[::-1], [""] * 10)
