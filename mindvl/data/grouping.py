"""Rows sorted by the group that they belong to: a counting sort, which takes one pass over each side."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True)
@no_type_check
def in_groups(rows, group, num_groups):
    """`rows` by group, in their order within one, and where each group starts (groups + 1).

    `group[i]`, from 0 to num_groups - 1, is the group of rows[i].
    """
    starts = np.zeros(num_groups + 1, np.int64)
    for place in range(len(group)):
        starts[group[place] + 1] += 1
    starts = np.cumsum(starts)
    grouped, end = np.empty_like(rows), starts[:-1].copy()
    for place in range(len(group)):
        here = group[place]
        grouped[end[here]] = rows[place]
        end[here] += 1
    return grouped, starts
