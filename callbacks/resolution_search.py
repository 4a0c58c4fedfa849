"""Test-time resolution search: score a model at several pixel budgets and pick one.

MindVL (arXiv 2509.11662) chooses the image resolution per benchmark without training. A pick made on the questions
that are reported would be tuned on them, so the search knows two scorers: one selects, the other reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BudgetScore:
    """What a model scores when pictures are brought into [min_pixels, max_pixels] (height x width, in pixels)."""

    min_pixels: int
    max_pixels: int
    selection_score: float
    mean_visual_tokens: float
    """Cost of the budget: visual tokens per question."""
    test_score: float | None = None


@dataclass(frozen=True)
class ResolutionResult:
    """All budgets tried; the default and the chosen one also with their score on the reported questions."""

    grid: list[BudgetScore]
    default: BudgetScore
    chosen: BudgetScore


Scorer = Callable[[int, int], tuple[float, float]]
"""(min_pixels, max_pixels) -> (score, mean visual tokens)."""


def search_resolution(budgets: Sequence[tuple[int, int]], select: Scorer, report: Scorer) -> ResolutionResult:
    """Score every budget with `select`; report the first, which is the default, and the best with `report`.

    Among equal scores the budget with fewer visual tokens wins.
    """
    if not budgets:
        raise ValueError("0 pixel budgets given, the search needs at least the default")
    for low, high in budgets:
        if low > high:
            raise ValueError(f"a budget has min_pixels {low}, more than its max_pixels {high}")
    grid = [BudgetScore(low, high, *select(low, high)) for low, high in dict.fromkeys(budgets)]
    best = max(grid, key=lambda point: (point.selection_score, -point.mean_visual_tokens))
    reported = {
        point: replace(point, test_score=report(point.min_pixels, point.max_pixels)[0]) for point in {grid[0], best}
    }
    return ResolutionResult([reported.get(point, point) for point in grid], reported[grid[0]], reported[best])
