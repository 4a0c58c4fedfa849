"""SCH of the paper's first version: the cache may be loaded anew, for free, for every window.

In a window of m tokens an expert is asked for f times. A cache of C experts that may choose them for this window holds
the C with the largest f, so over all windows

    SCH1(C) = sum over windows of (the C largest f) / sum over windows of (all f)

It is an upper bound of nothing that a machine can do (loads cost nothing, and more than Belady's hits are possible),
but it has a closed form: the c-th largest f of a window is the number of v >= 1 with at least c experts of f >= v. So
per window only n[v], the experts with f >= v, is needed; it changes by at most 2k steps from window to window.

    window with f = 3, 1, 1, 0      n[1] = 3, n[2] = 1, n[3] = 1
    largest: 3 (all three n >= 1)   second: 1 (only n[1] >= 2)   third: 1   fourth: 0
"""

from __future__ import annotations

import typing

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
@typing.no_type_check
def segment_places(requests, starts, num_experts, length, places):
    """Adds to places (1 or samples, experts) the c-th largest f of every window, c from 1."""
    width = requests.shape[1]
    asked = np.empty(num_experts, np.int64)
    at_least = np.empty(length + 1, np.int64)
    windows_with = np.empty(num_experts + 1, np.int64)
    for sample in range(len(starts) - 1):
        begin, end = starts[sample], starts[sample + 1]
        asked[:] = 0
        at_least[:] = 0
        windows_with[:] = 0  # (window, v) pairs by their n
        for token in range(begin, end):
            if token - begin >= length:
                for slot in range(width):
                    expert = requests[token - length, slot]
                    if expert < 0:
                        continue
                    at_least[asked[expert]] -= 1
                    asked[expert] -= 1
            for slot in range(width):
                expert = requests[token, slot]
                if expert < 0:
                    continue
                asked[expert] += 1
                at_least[asked[expert]] += 1
            if token - begin >= length - 1:
                for value in range(1, length + 1):
                    if at_least[value] == 0:
                        break
                    windows_with[at_least[value]] += 1
        into = places[sample if len(places) > 1 else 0]
        reached = 0
        for count in range(num_experts, 0, -1):
            reached += windows_with[count]
            into[count - 1] += reached
