"""What a resolution search tries and on whom: pixel budgets, the samples of two splits, and the grids they come to.

A budget (min_pixels, max_pixels) bounds the area that a picture is resized to. Most budgets do the same to most
pictures. One of 300 x 400 pixels (height x width), brought to a grid of squares of 28 pixels:

    (3136, 250880), (3136, 1003520), (50176, 1003520)    11 x 14, its own size: 154 visual tokens
    (3136, 50176)                                         6 x 9, it was too large: 54
    (200704, 1003520)                                    14 x 19, it was too small: 266

Five budgets are three different inputs, and the other two scores are already known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Budget = tuple[int, int]
"""(min_pixels, max_pixels), height x width."""

Grid = tuple[tuple[int, int], ...]
"""(rows, columns) in visual tokens of each of a sample's pictures."""


@dataclass(frozen=True, eq=False)
class SearchSample:
    """One thing that a model is scored on, whole: a question, or questions that are right together or not at all.

    Args:
        key: unique within its benchmark. Kept scores are found by it, so another question needs another key.
        benchmark: what a resolution is picked for; each has its own pick.
        content: whatever the scorer needs of it; the search never looks inside.
        stratum: a benchmark's score is the mean over its strata of their mean scores (MME's categories); with a
            single stratum it is the plain mean.
    """

    key: str
    benchmark: str
    content: Any = None
    stratum: str = ""


Score = Callable[[Sequence[SearchSample], Budget], Sequence[float]]
"""Scores of samples whose pictures are resized within the budget, one each, in their order."""

GridOf = Callable[[SearchSample, Budget], Grid]
"""What the budget makes of a sample's pictures. Equal grids must mean equal inputs; no pictures are an empty grid."""


def visual_tokens(grid: Grid) -> int:
    return sum(rows * columns for rows, columns in grid)


def budget_grid(min_pixels: Iterable[int], max_pixels: Iterable[int]) -> list[Budget]:
    """All pairs of the two that are budgets. Raises ValueError when every minimum is above every maximum."""
    lows, highs = list(min_pixels), list(max_pixels)
    pairs = [(low, high) for low in lows for high in highs if low <= high]
    if not pairs:
        smallest, largest = min(lows, default=0), max(highs, default=0)
        raise ValueError(f"no budget: the smallest min_pixels is {smallest}, the largest max_pixels {largest}")
    return pairs


def checked_budgets(budgets: Sequence[Budget]) -> list[Budget]:
    """The budgets, each once, in their order. Raises ValueError for none, and for one with min above max."""
    if not budgets:
        raise ValueError("0 pixel budgets given, the search needs at least the default")
    for low, high in budgets:
        if low < 1 or low > high:
            why = f"more than its max_pixels {high}" if low > high else "less than 1"
            raise ValueError(f"a budget has min_pixels {low}, {why}")
    return list(dict.fromkeys((low, high) for low, high in budgets))


def by_benchmark(selection: Sequence[SearchSample], report: Sequence[SearchSample]) -> dict[str, tuple[list, list]]:
    """(selection, report) of each benchmark, sorted by key, so that nothing depends on the order they came in.

    Raises:
        ValueError: for a benchmark with fewer than two samples on either side, for a key that comes twice, and for a
            key of both sides: a pick made on the samples that are reported would be tuned on them.
    """
    found: dict[str, tuple[list, list]] = {}
    for side, samples in enumerate((selection, report)):
        for sample in samples:
            found.setdefault(sample.benchmark, ([], []))[side].append(sample)
    for benchmark, sides in found.items():
        if min(map(len, sides)) < 2:
            raise ValueError(
                f"{benchmark} has {len(sides[0])} samples to select on and {len(sides[1])} to report on; "
                "an interval needs at least 2 of each"
            )
        keys = [{sample.key for sample in samples} for samples in sides]
        for samples, distinct in zip(sides, keys, strict=True):
            if len(samples) != len(distinct):
                twice = next(sample.key for sample in samples if [one.key for one in samples].count(sample.key) > 1)
                raise ValueError(
                    f"{benchmark}: {len(samples)} samples have {len(distinct)} keys; {twice!r} comes twice"
                )
            samples.sort(key=lambda sample: sample.key)
        if shared := keys[0] & keys[1]:
            raise ValueError(
                f"{benchmark}: {len(shared)} samples are both selected on and reported, such as {min(shared)!r}"
            )
    if not found:
        raise ValueError("0 samples given")
    return found
