"""Best fit with three capacities: tokens of the language model, patches of the tower, pictures.

A window of the epoch's shuffled samples is packed at a time. Samples that fill much of a pack go first, longest first;
the many small ones follow in shuffled order, so that packs stay mixed (sorted by length, each would hold one kind of
sample, and the gradient of a step would be that of one task). Each sample goes to the pack that it leaves with the
fewest free tokens. The emptiest packs of a window are taken apart again and their samples join the next window, so only
the last packs of an epoch are not full.

    budget 10 tokens, 8 patches      samples (tokens, patches): a(6,8) b(5,0) c(4,4) d(3,4) e(2,0)
    packs                            [a c] no: 12 patches   ->   [a e] 8, 8     [b c] 9, 4     [d] 3, 4

The loop is compiled by numba; a million samples take a few tenths of a second, and cost grows linearly.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from mindvl.data.grouping import in_groups

WINDOW_SAMPLES = 4096
"""Samples packed together: large enough that packs are full, small enough that an epoch stays shuffled."""

LARGE_SHARE = 1 / 8
"""Samples that take more than this of a pack's tokens or patches are placed first."""

RETRY_SHARE = 1 / 16
"""Share of a window's packs, the emptiest, that are taken apart and packed again with the next window."""

FULL_SHARE = 0.998
"""A pack with this share of its tokens is never taken apart."""


def best_fit(
    order: np.ndarray,
    tokens: np.ndarray,
    patches: np.ndarray,
    images: np.ndarray,
    *,
    capacity: tuple[int, int, int],
    window: int = WINDOW_SAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack the samples `order` (rows of the columns): rows by pack, and where each pack starts (packs + 1).

    Raises ValueError when a single sample is larger than a pack: the plan's table never lets one through.
    """
    columns = [column[order].astype(np.int32, copy=False) for column in (tokens, patches, images)]
    need = np.asarray([column.max(initial=0) for column in columns])
    if (need > capacity).any():
        raise ValueError(f"a sample needs {need.tolist()} tokens, patches and images, a pack holds {list(capacity)}")
    pack, count = _best_fit(*columns, *capacity, window, LARGE_SHARE, RETRY_SHARE, FULL_SHARE)
    return in_groups(order, pack, count)


@njit(cache=True)
@no_type_check
def _best_fit(
    tokens, patches, images, cap_tokens, cap_patches, cap_images, window, large_share, retry_share, full_share
):
    """Pack number of each sample, and the number of packs; samples come in the order in which they are packed."""
    count = len(tokens)
    pack = np.full(count, -1, np.int64)
    carried = np.empty(0, np.int64)
    start = num_packs = 0
    while start < count or len(carried) > 0:
        stop = min(count, start + window)
        current = np.concatenate((carried, np.arange(start, stop)))
        start, size = stop, len(carried) + stop - start
        rank, smallest = np.zeros(size), cap_tokens
        for position in range(size):
            sample = current[position]
            share = max(tokens[sample] / cap_tokens, patches[sample] / cap_patches)
            if share > large_share:
                rank[position] = -share
            smallest = min(smallest, tokens[sample])
        free_tokens, free_patches = np.empty(size, np.int64), np.empty(size, np.int64)
        free_images, chosen, open_packs = (np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64))
        num_open = opened = 0
        for position in np.argsort(rank, kind="mergesort"):
            sample = current[position]
            best, fewest = -1, cap_tokens + 1
            place = 0
            while place < num_open:
                here = open_packs[place]
                if free_tokens[here] < smallest:  # nothing of this window fits any more
                    num_open -= 1
                    open_packs[place] = open_packs[num_open]
                    continue
                fits = (
                    free_tokens[here] >= tokens[sample]
                    and free_patches[here] >= patches[sample]
                    and free_images[here] >= images[sample]
                )
                if fits and (free_tokens[here] < fewest or (free_tokens[here] == fewest and here < best)):
                    best, fewest = here, free_tokens[here]
                place += 1
            if best < 0:
                best, opened = opened, opened + 1
                free_tokens[best], free_patches[best], free_images[best] = cap_tokens, cap_patches, cap_images
                open_packs[num_open] = best
                num_open += 1
            free_tokens[best] -= tokens[sample]
            free_patches[best] -= patches[sample]
            free_images[best] -= images[sample]
            chosen[position] = best
        again = np.zeros(opened, np.bool_)
        if stop < count:
            emptiest = np.argsort(-free_tokens[:opened], kind="mergesort")
            for here in emptiest[: max(1, int(opened * retry_share))]:
                again[here] = free_tokens[here] > (1 - full_share) * cap_tokens
        number = np.empty(opened, np.int64)
        for here in range(opened):
            if not again[here]:
                number[here] = num_packs
                num_packs += 1
        num_carried = 0
        for position in range(size):
            num_carried += again[chosen[position]]
        carried = np.empty(num_carried, np.int64)
        num_carried = 0
        for position in range(size):
            if again[chosen[position]]:
                carried[num_carried] = current[position]
                num_carried += 1
            else:
                pack[current[position]] = number[chosen[position]]
    return pack, num_packs
