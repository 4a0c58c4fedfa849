import numpy as np

from mindvl.data.grouping import in_groups


def test_rows_are_grouped_as_a_stable_sort_groups_them():
    rng = np.random.default_rng(0)
    rows, group = rng.permutation(5000), rng.integers(0, 37, 5000)
    grouped, starts = in_groups(rows, group, 40)
    assert (grouped == rows[np.argsort(group, kind="stable")]).all()
    assert (np.diff(starts) == np.bincount(group, minlength=40)).all()


def test_no_rows_make_empty_groups():
    grouped, starts = in_groups(np.zeros(0, np.int64), np.zeros(0, np.int64), 3)
    assert len(grouped) == 0 and starts.tolist() == [0, 0, 0, 0]
