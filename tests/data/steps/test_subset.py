import pytest

from mindvl.data.steps.subset import draw_of, subset


def test_a_smaller_subset_is_part_of_a_larger_one_and_both_have_their_size(raw):
    samples = [raw(key=f"sample-{number}") for number in range(1000)]
    kept = {ratio: {s.key for s in samples if subset(s, ratio=ratio) is s} for ratio in (0.0, 0.1, 0.5, 1.0)}
    assert kept[0.0] == set() and len(kept[1.0]) == 1000
    assert kept[0.1] < kept[0.5]
    assert len(kept[0.5]) == pytest.approx(500, abs=50)
    assert subset(samples[0], ratio=0.0) == "not drawn"


def test_a_key_draws_the_same_number_forever():
    assert draw_of("sample-1") == 0x68644021C28E99C5 / 2**64  # printf sample-1 | b2sum -l 64
