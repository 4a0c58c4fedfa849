"""A source of which too much is damaged is refused before training; what is only too large is no damage."""

from collections import Counter

import pytest

from mindvl.data.ceiling import check_damaged, is_over, most_common
from mindvl.data.indexing import index_shards
from mindvl.data.mixture import Source
from mindvl.data.pixels import PixelBudget
from mindvl.data.plan import PackBudget
from mindvl.data.table import SampleTable
from mindvl.data.tokenizer import tokenizer_fingerprint


@pytest.fixture
def table_of(tmp_path, write_tar, record, encoder):
    """The table of a source `made` beside a good one, with so many good, long, unreadable and silent samples."""

    def make(*, good: int = 20, long: int = 0, unreadable: int = 0, silent: int = 0) -> SampleTable:
        texts = [record()] * good + [record("?" * 90)] * long + [b"{"] * unreadable + [record("?", "")] * silent
        (tmp_path / "made").mkdir()
        sources = {"made": Source(str(tmp_path / "made" / "*.tar")), "fine": Source(str(tmp_path / "fine.tar"))}
        for path, members in (("made/0.tar", texts[::2]), ("made/1.tar", texts[1::2]), ("fine.tar", [record()])):
            write_tar(tmp_path / path, [(f"s{number}.json", text) for number, text in enumerate(members)])
            index_shards([str(tmp_path / path)], encoder)
        return SampleTable(
            sources,
            tokenizer=tokenizer_fingerprint(encoder.tokenizer),
            pixels=PixelBudget(28 * 28, 64 * 28 * 28),
            budget=PackBudget(64, 256),
        )

    return make


def test_a_source_of_which_too_much_is_damaged_is_refused_with_its_counts_its_ratio_and_the_key(table_of, tmp_path):
    table = table_of(good=20, long=4, unreadable=11, silent=5)
    said = (
        rf"^source made \({tmp_path}/made/\*\.tar\): 16 of 40 samples \(40\.0%\) cannot be used, more than "
        r"max_skipped_ratio=0\.39: 11 x [^:,]+, 5 x [^:,]+$"
    )
    with pytest.raises(ValueError, match=said):
        check_damaged(table, max_ratio=0.39)
    check_damaged(table, max_ratio=0.4)


def test_samples_that_are_too_large_for_a_pack_are_no_damage(table_of):
    table = table_of(good=2, long=30, unreadable=1)
    assert sum(table.left_out.values()) == 31
    check_damaged(table, max_ratio=0.0)


def test_a_few_damaged_samples_are_forgiven_whatever_their_share(table_of):
    check_damaged(table_of(good=1, unreadable=10), max_ratio=0.05)
    assert [is_over(bad, of=1000, max_ratio=0.05) for bad in (10, 50, 51)] == [False, False, True]
    assert [is_over(bad, of=12, max_ratio=0.05) for bad in (10, 11)] == [False, True]


def test_many_reasons_are_told_in_one_line():
    reasons = Counter({f"reason {number}": 10 - number for number in range(8)})
    said = "10 x reason 0, 9 x reason 1, 8 x reason 2, 7 x reason 3, 6 x reason 4"
    assert most_common(reasons) == f"{said} and 3 other reasons"
    assert most_common(Counter(dict(reasons.most_common(5)))) == said
