"""Best fit loses no sample, breaks no budget, fills packs, and is what its plain twin does."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data import packing
from mindvl.data.packing import FULL_SHARE, LARGE_SHARE, RETRY_SHARE, best_fit

CAPACITY = (50, 40, 3)
sample = st.tuples(st.integers(1, 50), st.integers(0, 40), st.integers(0, 3))


def columns_of(samples):
    return np.asarray(samples, np.int32).reshape(-1, 3).T


def packs_of(samples, *, window=4096, capacity=CAPACITY):
    rows, starts = best_fit(np.arange(len(samples)), *columns_of(samples), capacity=capacity, window=window)
    return [rows[start:stop].tolist() for start, stop in itertools.pairwise(starts)]


def twin(samples, window):
    """Best fit in plain Python, a window at a time, with the packs of a window taken apart as the module says."""
    done, carried, start = [], [], 0
    while start < len(samples) or carried:
        current = carried + list(range(start, min(len(samples), start + window)))
        start = min(len(samples), start + window)
        share = [max(samples[i][0] / CAPACITY[0], samples[i][1] / CAPACITY[1]) for i in current]
        order = sorted(range(len(current)), key=lambda p: -share[p] if share[p] > LARGE_SHARE else 0.0)
        free, members = [], []
        for position in order:
            need = samples[current[position]]
            fits = [p for p in range(len(free)) if all(f >= n for f, n in zip(free[p], need, strict=True))]
            pack = min(fits, key=lambda p: (free[p][0], p), default=None)
            if pack is None:
                pack = len(free)
                free.append(list(CAPACITY))
                members.append([])
            free[pack] = [f - n for f, n in zip(free[pack], need, strict=True)]
            members[pack].append(position)
        again = set()
        if start < len(samples):
            emptiest = sorted(range(len(free)), key=lambda p: -free[p][0])
            again = {p for p in emptiest[: max(1, int(len(free) * RETRY_SHARE))] if free[p][0] > (1 - FULL_SHARE) * 50}
        carried = [current[p] for p in sorted(p for pack in again for p in members[pack])]
        done += [sorted(current[p] for p in members[pack]) for pack in range(len(free)) if pack not in again]
    return done


@settings(deadline=None, max_examples=200)
@given(st.lists(sample, min_size=0, max_size=60), st.sampled_from([3, 7, 1000]))
def test_the_compiled_loop_makes_the_packs_of_its_plain_twin(samples, window):
    assert [sorted(pack) for pack in packs_of(samples, window=window)] == twin(samples, window)


@settings(deadline=None, max_examples=100)
@given(st.lists(sample, min_size=1, max_size=80), st.sampled_from([5, 1000]))
def test_every_sample_is_packed_once_within_all_budgets(samples, window):
    packs = packs_of(samples, window=window)
    assert sorted(row for pack in packs for row in pack) == list(range(len(samples)))
    assert (np.stack([columns_of(samples)[:, pack].sum(axis=1) for pack in packs]) <= CAPACITY).all()


def test_the_toy_example_of_the_module_is_packed_as_it_says():
    samples = [(6, 8, 0), (5, 0, 0), (4, 4, 0), (3, 4, 0), (2, 0, 0)]  # a b c d e
    assert sorted(sorted(pack) for pack in packs_of(samples, capacity=(10, 8, 9))) == [[0, 4], [1, 2], [3]]


def test_a_sample_larger_than_a_pack_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"needs \[60, 0, 0\] tokens, patches and images, a pack holds \[50, 40, 3\]"):
        packs_of([(60, 0, 0)])


def test_packs_are_full_also_at_the_borders_of_windows(monkeypatch):
    rng = np.random.default_rng(0)
    tokens = np.clip(np.exp(rng.normal(5, 1, 20_000)), 4, 4000).astype(np.int32)
    columns = (tokens, np.zeros_like(tokens), np.zeros_like(tokens))

    def fill(**settings):
        _, starts = best_fit(rng.permutation(len(tokens)), *columns, capacity=(4096, 1, 1), **settings)
        return tokens.sum() / 4096 / (len(starts) - 1)

    with_retry = fill(window=512)
    monkeypatch.setattr(packing, "FULL_SHARE", 0.0)  # no pack is taken apart
    assert with_retry > 0.997 > fill(window=512)


def test_a_window_of_nothing_but_large_samples_ends():
    assert len(packs_of([(40, 0, 0)] * 50, window=4)) == 50
