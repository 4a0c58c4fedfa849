"""The practitioner's table against numbers worked by hand."""

import math

import numpy as np
import pytest

from mindvl.routing.deployment import Machine, advise, cache_rows, knee, rows_to_show

MACHINE = Machine(12.6e6, 25e9)


def linear(num_experts=64):
    return np.arange(1, num_experts + 1) / num_experts


def bent(num_experts=64):
    return 1 - np.exp(-np.arange(1, num_experts + 1) / 10)


def test_the_toy_of_the_docstring():
    rates = np.zeros(64)
    rates[15] = 0.7
    row = next(row for row in cache_rows(rates, machine=MACHINE, layers=16, k=8) if row.slots == 16)
    assert row.cache_bytes == 16 * 16 * 12.6e6
    assert row.misses_per_token == pytest.approx(38.4)
    assert row.bytes_per_token == pytest.approx(483.84e6)
    assert row.link_tokens_per_s == pytest.approx(25e9 / 483.84e6)
    assert row.hidden_tokens_per_s is row.exposed_tokens_per_s is None


def test_rows_go_from_the_experts_of_a_token_to_all_and_hits_of_all_set_no_bound():
    rows = cache_rows(linear(8), machine=MACHINE, layers=2, k=3)
    assert [row.slots for row in rows] == [3, 4, 5, 6, 7, 8]
    assert rows[-1].misses_per_token == 0 and math.isinf(rows[-1].link_tokens_per_s)


def test_slots_that_ran_no_expert_ask_for_nothing():
    full, half = (
        cache_rows(linear(8), machine=MACHINE, layers=2, k=2, requests_per_token=asked)[0] for asked in (4.0, 2.0)
    )
    assert full.misses_per_token == 2 * half.misses_per_token


def test_a_known_speed_is_the_ceiling_with_overlap_and_adds_up_without():
    machine = Machine(1e6, 1e8, resident_tokens_per_s=50.0)
    row = cache_rows(np.array([0.0, 0.5, 1.0]), machine=machine, layers=1, k=2)[0]
    assert row.link_tokens_per_s == pytest.approx(100)  # one miss of 1 MB at 100 MB/s: 10 ms
    assert row.hidden_tokens_per_s == 50
    assert row.exposed_tokens_per_s == pytest.approx(1 / (0.02 + 0.01))


def test_a_straight_line_has_no_knee_and_a_bent_one_has_it_where_it_lies_highest_above_the_line():
    assert knee(linear(), 8) is None
    curve = bent()[7:]
    above = [curve[n] - (curve[0] + (curve[-1] - curve[0]) * n / (len(curve) - 1)) for n in range(len(curve))]
    assert knee(bent(), 8) == 8 + int(np.argmax(above)) == 25
    assert knee(np.array([0.2, 1.0]), 1) is None


def test_memory_decides_where_it_is_given():
    machine = Machine(1e9, 25e9, memory_bytes=45e9)
    rows = cache_rows(bent(), machine=machine, layers=2, k=8)
    advice = advise(rows, machine=machine, k=8)
    assert advice.slots == 22 and "largest that fits into 45 GB" in advice.reason
    roomy = Machine(1e9, 25e9, memory_bytes=1e12)
    assert advise(rows, machine=roomy, k=8).slots == 64
    tight = Machine(1e9, 25e9, memory_bytes=15e9)
    with pytest.raises(ValueError, match=r"15 GB hold no cache: the 8 experts .* take 16 GB"):
        advise(rows, machine=tight, k=8)


def test_without_a_limit_the_knee_is_advised_and_without_a_knee_all_there_is():
    for rates, slots in ((bent(), knee(bent(), 8)), (linear(), 64)):
        assert advise(cache_rows(rates, machine=MACHINE, layers=2, k=8), machine=MACHINE, k=8).slots == slots


def test_shown_rows_are_multiples_of_k_and_the_advised_size():
    rows = cache_rows(bent(), machine=MACHINE, layers=2, k=8)
    assert [row.slots for row in rows_to_show(rows, 8, 21)] == [8, 12, 16, 21, 24, 32, 64]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_sizes_and_speeds_that_cannot_be_are_refused(value):
    with pytest.raises(ValueError, match="link_bytes_per_s is"):
        Machine(1e6, value)
