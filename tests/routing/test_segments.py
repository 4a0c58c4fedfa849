"""Segment routing against its definition: windows counted one by one, and every segment router tried."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.routing import cores, inputs
from mindvl.routing.segments import best_segment_router, scores_from_counts, segment_routing
from mindvl.routing.windows import window_histograms


def random_ids(seed, *, samples=3, tokens=12, layers=2, experts=5, k=2):
    """Routing with favourites, so that experts differ."""
    rng = np.random.default_rng(seed)
    taste = rng.gumbel(size=(samples, tokens, layers, experts)) + 2 * rng.normal(size=(layers, experts))
    return np.argsort(-taste, axis=-1)[..., :k]


def with_drops(ids, seed, share):
    """Some slots run no expert."""
    return np.where(np.random.default_rng(seed).random(ids.shape) < share, -1, ids)


def activity(sample, layer, experts):
    """(tokens, experts) 0 or 1."""
    active = np.zeros((len(sample), experts), int)
    for token, chosen in enumerate(sample[:, layer]):
        active[token, chosen[chosen >= 0]] = 1
    return active


def plain_counts(samples, *, experts, length, starts=None):
    """(layers, experts, m + 1), one window at a time."""
    layers = samples[0].shape[1]
    counts = np.zeros((layers, experts, length + 1), int)
    for sample, layer in itertools.product(samples, range(layers)):
        active = activity(sample, layer, experts)
        for start in range(len(sample) - length + 1):
            if starts is None or start in starts:
                for expert, f in enumerate(active[start : start + length].sum(axis=0)):
                    counts[layer, expert, f] += 1
    return counts


def counts_of(ids, *, experts, length, **options):
    return window_histograms(ids, num_experts=experts, segment_lengths=(length,), **options)[length].counts


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.lists(st.integers(0, 14), min_size=1, max_size=4),
    experts=st.integers(1, 7),
    length=st.integers(1, 9),
    drops=st.sampled_from([0.0, 0.3]),
    data=st.data(),
)
def test_counts_equal_those_of_windows_taken_one_by_one(seed, tokens, experts, length, drops, data):
    k = data.draw(st.integers(1, experts))
    position = data.draw(st.none() | st.integers(0, 8))
    ragged = [random_ids(seed + t, samples=1, tokens=t, experts=experts, k=k)[0] for t in tokens]
    ragged = [with_drops(sample, seed, drops) for sample in ragged]
    expected = plain_counts(ragged, experts=experts, length=length, starts=None if position is None else {position})
    found = counts_of(ragged, experts=experts, length=length, position=position, allow_dropped=drops > 0)
    assert found.dtype == np.int64 and found[0].tolist() == expected.tolist()


def test_no_segment_router_scores_more_than_srp_and_one_scores_as_much():
    """Every choice of (window, expert) pairs is tried: up to 2^10 segment routers a case."""
    for seed in range(12):
        experts, length = (2, 3) if seed % 2 else (3, 2)
        ids = random_ids(seed, samples=1, tokens=5 if seed % 2 else 4, layers=1, experts=experts, k=1)
        active = activity(ids[0], 0, experts)
        windows = [active[start : start + length].sum(axis=0) for start in range(len(active) - length + 1)]
        pairs = [int(f) for window in windows for f in window]
        best = max(
            Fraction(2 * sum(f for f, on in zip(pairs, choice, strict=True) if on), sum(choice) * length + sum(pairs))
            for choice in itertools.product((0, 1), repeat=len(pairs))
        )
        assert segment_routing(ids, num_experts=experts, segment_length=length).srp.tolist() == [float(best)]


def test_the_worked_example_has_the_scores_of_its_page():
    # One expert of two: 1 1 0 1 0 0; the other is its complement, 0 0 1 0 1 1.
    ids = np.array([0, 0, 1, 0, 1, 1]).reshape(1, 6, 1, 1)
    assert counts_of(ids, experts=2, length=3)[0, 0].tolist() == [[0, 2, 2, 0], [0, 2, 2, 0]]
    scores = segment_routing(ids, num_experts=2, segment_length=3, level="expert")
    assert scores.srp.tolist() == [[2 / 3, 2 / 3]]
    assert scores.size_ratio.tolist() == [[2.0, 2.0]]  # a = 0, the smallest of the best, chooses it everywhere
    assert scores.activation.tolist() == [[0.5, 0.5]]
    assert scores.num_windows == 4


def test_levels_pool_counts_before_the_ratio_and_have_the_promised_shapes():
    ids = random_ids(1, layers=3)
    by_level = {
        level: segment_routing(ids, num_experts=5, segment_length=4, level=level)
        for level in ("expert", "layer", "model")
    }
    assert [scores.srp.shape for scores in by_level.values()] == [(3, 5), (3,), ()]
    counts = plain_counts(list(ids), experts=5, length=4)
    j = np.arange(5)
    for layer in range(3):
        h = counts[layer].sum(axis=0)
        active = (j * h).sum()
        f1 = [2 * (j[a:] * h[a:]).sum() / (4 * h[a:].sum() + active) for a in range(5)]
        best = int(np.argmax(f1))
        assert by_level["layer"].srp[layer] == pytest.approx(max(f1), rel=1e-15)
        assert by_level["layer"].size_ratio[layer] == pytest.approx(4 * h[best:].sum() / active, rel=1e-15)
        assert by_level["layer"].activation[layer] == pytest.approx(2 / 5, rel=1e-15)
    assert by_level["layer"].srp.mean() != pytest.approx(float(by_level["model"].srp), abs=1e-9)


def test_domains_are_counted_apart_and_add_up_to_the_whole():
    ids = random_ids(2, samples=5)
    labels = ["web", "code", "web", "code", "arxiv"]
    scores = segment_routing(ids, num_experts=5, segment_length=3, domains=labels)
    assert scores.domains == ("arxiv", "code", "web") and scores.srp.shape == (3, 2)
    for row, name in enumerate(scores.domains):
        alone = ids[[label == name for label in labels]]
        assert scores.srp[row].tolist() == segment_routing(alone, num_experts=5, segment_length=3).srp.tolist()
    histogram = window_histograms(ids, num_experts=5, segment_lengths=(3,), domains=labels)[3]
    assert histogram.pooled().counts.tolist() == counts_of(ids, experts=5, length=3).tolist()
    assert scores.num_windows.tolist() == [10, 20, 20]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, ">i4"])
def test_every_kind_of_whole_number_gives_the_same_counts(dtype):
    ids = random_ids(3)
    assert counts_of(ids.astype(dtype), experts=5, length=4).tolist() == counts_of(ids, experts=5, length=4).tolist()


def test_a_torch_tensor_and_a_list_of_samples_give_what_an_array_gives():
    ids = random_ids(4)
    expected = counts_of(ids, experts=5, length=4).tolist()
    assert counts_of(torch.from_numpy(ids), experts=5, length=4).tolist() == expected
    assert counts_of(torch.from_numpy(ids).to(torch.int16), experts=5, length=4).tolist() == expected
    assert counts_of([torch.from_numpy(sample) for sample in ids], experts=5, length=4).tolist() == expected


def test_any_split_order_of_samples_or_slots_and_chunking_gives_the_same_integers(monkeypatch):
    ids = random_ids(5, samples=9, tokens=20)
    expected = counts_of(ids, experts=5, length=6).tolist()
    assert (counts_of(ids[:2], experts=5, length=6) + counts_of(ids[2:], experts=5, length=6)).tolist() == expected
    assert counts_of(ids[::-1], experts=5, length=6).tolist() == expected
    assert counts_of(ids[..., ::-1], experts=5, length=6).tolist() == expected
    monkeypatch.setattr(inputs, "CHUNK_IDS", 100)  # two samples a chunk
    assert counts_of(ids, experts=5, length=6).tolist() == expected
    monkeypatch.setattr(cores, "num_cores", lambda: 1)
    assert counts_of(ids, experts=5, length=6).tolist() == expected


def test_a_window_of_one_token_has_srp_one_and_the_activation_of_the_router():
    scores = segment_routing(random_ids(6), num_experts=5, segment_length=1, level="model")
    assert (scores.srp, scores.size_ratio, scores.activation) == (1.0, 1.0, 2 / 5)


def test_where_no_window_fits_scores_are_nan_and_a_group_that_is_never_active_scores_zero():
    short = segment_routing(random_ids(7, tokens=5), num_experts=5, segment_length=6, level="model")
    assert np.isnan([short.srp, short.size_ratio, short.activation]).all() and short.num_windows == 0
    ids = np.zeros((1, 8, 1, 1), int)
    unused = segment_routing(ids, num_experts=2, segment_length=4, level="expert")
    assert unused.srp.tolist() == [[1.0, 0.0]] and unused.size_ratio.tolist() == [[1.0, 0.0]]
    assert unused.activation.tolist() == [[1.0, 0.0]]


def test_empty_samples_are_skipped_and_short_ones_have_no_windows():
    long = random_ids(8, samples=1)[0]
    ragged = [long[:0], long, long[:1], long[:0]]
    assert counts_of(ragged, experts=5, length=2).tolist() == counts_of([long], experts=5, length=2).tolist()
    assert counts_of(long[None, :0], experts=5, length=2).sum() == 0


def test_thousands_of_experts_and_any_length_are_counted():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((2, 40, 1, 3000)), axis=-1)[..., :10].astype(np.int16)
    for length in (7, 37):
        expected = plain_counts(list(ids), experts=3000, length=length)
        assert np.array_equal(counts_of(ids, experts=3000, length=length)[0], expected)


def test_corpus_sized_counts_do_not_overflow():
    """An expert that is active 75 % of a billion windows of 256 tokens; 32-bit sums overflow at 1.7e7 windows."""
    h = np.zeros((1, 1, 257), np.int64)
    h[0, 0, 256], h[0, 0, 0] = 750_000_000, 250_000_000
    assert scores_from_counts(h, level="model").srp == 1.0
    h[0, 0, 192], h[0, 0, 256], h[0, 0, 0] = 10**9, 0, 0
    assert scores_from_counts(h, level="model").srp == pytest.approx(2 * 0.75 / 1.75, rel=1e-15)


def test_srp_never_falls_below_what_choosing_everything_scores():
    for seed in range(5):
        counts = counts_of(random_ids(seed, tokens=30), experts=5, length=8)
        srp, _, activation = best_segment_router(counts)
        assert (srp >= 2 * activation / (1 + activation) - 1e-12).all()
