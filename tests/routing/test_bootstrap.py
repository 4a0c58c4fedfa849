import numpy as np
import pytest

from mindvl.routing import (
    basic_bootstrap,
    cache_hits,
    hit_rate_interval,
    random_routing,
    segment_routing,
    segment_routing_interval,
)

IDS = random_routing(num_samples=70, num_tokens=20, layers=2, num_experts=6, k=2)


def test_the_interval_is_the_estimate_mirrored_at_its_quantiles():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(40, 1))
    found = basic_bootstrap(values, lambda sums: sums / 40, resamples=200, confidence=0.9, seed=3)
    weights = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), 200)
    redrawn = sorted((weights @ values)[:, 0] / 40)
    theta = values.mean()
    assert found.estimate[0] == pytest.approx(theta)
    assert found.low[0] == pytest.approx(2 * theta - redrawn[190])
    assert found.high[0] == pytest.approx(2 * theta - redrawn[10])


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = basic_bootstrap(rng.normal(5, 1, (60, 1)), lambda sums: sums / 60, resamples=200)
        held += found.low[0] <= 5 <= found.high[0]
    assert 180 <= held <= 199


@pytest.mark.parametrize("level", ["expert", "layer", "model"])
def test_srp_intervals_surround_the_srp_of_the_whole_corpus(level):
    found = segment_routing_interval(IDS, num_experts=6, segment_length=4, level=level, resamples=80)
    scores = segment_routing(IDS, num_experts=6, segment_length=4, level=level)
    assert found.estimate.tolist() == scores.srp.tolist()
    assert (found.low < found.estimate).all() and (found.estimate < found.high).all()
    assert (found.high - found.low < 0.1).all()


def test_samples_with_dropped_slots_have_intervals_too():
    ids = np.where(np.random.default_rng(0).random(IDS.shape) < 0.1, -1, IDS)
    found = segment_routing_interval(ids, num_experts=6, segment_length=4, resamples=50, allow_dropped=True)
    scores = segment_routing(ids, num_experts=6, segment_length=4, allow_dropped=True)
    assert found.estimate.tolist() == scores.srp.tolist()


def test_samples_shorter_than_a_window_are_not_drawn():
    ragged = [*IDS[:10], IDS[10][:3], IDS[11][:0]]
    one = segment_routing_interval(ragged, num_experts=6, segment_length=4, level="model", resamples=50)
    other = segment_routing_interval(IDS[:10], num_experts=6, segment_length=4, level="model", resamples=50)
    assert (one.low, one.high) == (other.low, other.high)
    with pytest.raises(ValueError, match="none of 2 samples has 4 tokens"):
        segment_routing_interval(ragged[10:], num_experts=6, segment_length=4)


def test_hit_rate_intervals_surround_the_hit_rates():
    curve = cache_hits(IDS, num_experts=6, policy="lru", per_sample=True)
    found = hit_rate_interval(curve, resamples=80)
    assert found.estimate.tolist() == curve.hit_rate.tolist()
    assert (found.low <= found.estimate).all() and (found.high[:, :5] > found.low[:, :5]).all()
    with pytest.raises(ValueError, match="per_sample=True"):
        hit_rate_interval(cache_hits(IDS, num_experts=6, policy="lru"))


def test_an_interval_needs_samples_and_resamples_outside_it():
    with pytest.raises(ValueError, match="0 samples to draw from"):
        basic_bootstrap(np.zeros((0, 1)), lambda sums: sums)
    with pytest.raises(ValueError, match="10 resamples leave 0 outside"):
        basic_bootstrap(np.zeros((5, 1)), lambda sums: sums, resamples=10)
