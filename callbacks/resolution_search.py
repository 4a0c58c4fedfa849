"""Test-time resolution search: score a model at several pixel budgets, pick one per benchmark, and say what it gains.

MindVL (arXiv 2509.11662) chooses the image resolution of each benchmark without training. A pick made on the samples
that are reported would be tuned on them, so one split selects and another reports:

    selection   budget -> score     (784, 50176): 0.61   (784, 200704): 0.70   (784, 401408): 0.70
    pick        the best score; of the two equal ones that with fewer visual tokens
    report      the pick 0.66, the default (784, 50176) 0.60: +0.06, interval [0.01, 0.11], of the same samples

Budgets that resize a picture to the same grid are scored once, so a grid of nine budgets over pictures of mixed sizes
costs a third of nine runs, and nothing is estimated. Successive halving saves more but may drop the best budget early:
all budgets on a part of the samples, the better half on twice as many, and so on until the last few have seen all
(Jamieson & Talwalkar 2016, arXiv 1502.07943; samples here are what pulls of an arm are there). Eight budgets on 400:

    rung 1: 8 budgets on 100 samples    rung 2: 4 on 200    rung 3: 2 on 400    1,600 scores instead of 3,200
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .resolution_bootstrap import Estimate, estimate, mean_of_strata
from .resolution_cache import ScoreCache
from .resolution_samples import Budget, GridOf, Score, SearchSample, by_benchmark, checked_budgets, visual_tokens
from .resolution_scores import ALONE, Ranks, ScoreTable

Method = Literal["grid", "halving"]

MIN_RUNG_SAMPLES = 8
"""Of each stratum, where there are so many: a first rung of three samples would drop budgets by chance."""


@dataclass(frozen=True)
class BudgetScore:
    """What a model scores when pictures are brought into [min_pixels, max_pixels] (height x width, in pixels)."""

    min_pixels: int
    max_pixels: int
    mean_visual_tokens: float
    """Cost of the budget: visual tokens of a sample of the selection split."""
    selection: Estimate
    """Of all its samples, or under halving of those of the last rung that the budget took part in."""
    report: Estimate | None = None
    """Only of the default and the pick."""
    report_visual_tokens: float | None = None


@dataclass(frozen=True)
class SearchCost:
    """What the selection took, beside a run of its own for each budget over the same samples.

    Counts are of (sample, budget) pairs that a model was asked about, and of the visual tokens of these. Scores that a
    cache had kept count as asked, so that a resumed search states the same.
    """

    num_scored: int
    num_separate: int
    visual_tokens_scored: int
    visual_tokens_separate: int

    @property
    def scored_ratio(self) -> float:
        """Pairs that were asked over pairs that separate runs would ask."""
        return self.num_scored / self.num_separate


@dataclass(frozen=True)
class Rung:
    """So many budgets were scored on so many samples."""

    num_budgets: int
    num_samples: int


@dataclass(frozen=True)
class ResolutionResult:
    """Outcome of one benchmark, with the settings that made it; `dataclasses.asdict` of it is JSON."""

    benchmark: str
    method: Method
    eta: int | None
    """Of halving: the share of budgets kept is 1 / eta. None for the grid."""
    seed: int
    confidence: float
    resamples: int
    num_selection: int
    num_report: int
    grid: list[BudgetScore]
    """All budgets, in the order given."""
    default: BudgetScore
    chosen: BudgetScore
    difference: Estimate
    """Pick minus default on the report split, paired by sample."""
    rungs: list[Rung]
    cost: SearchCost


def search_resolution(
    selection: Sequence[SearchSample],
    report: Sequence[SearchSample],
    *,
    budgets: Sequence[Budget],
    score: Score,
    grid_of: GridOf,
    method: Method = "grid",
    eta: int = 2,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 1000,
    batch_size: int = 64,
    cache: ScoreCache | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, ResolutionResult]:
    """Pick a budget for each benchmark among the samples. The first budget is the default.

    Equal scores go to fewer visual tokens, and then to the budget that stands first.

    Raises:
        ValueError: for budgets or samples that cannot be searched, a sample of both splits, a scorer that returns
            other than one finite score per sample, or an eta below 2.
    """
    budgets = checked_budgets(budgets)
    if method not in ("grid", "halving"):
        raise ValueError(f"unknown method {method!r}; known are grid, halving")
    if eta < 2:
        raise ValueError(f"eta is {eta}, less than 2: a rung must drop budgets")
    settings: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    table = ScoreTable(score, grid_of, batch_size=batch_size, cache=cache, ranks=ranks)
    results = {}
    for benchmark, (chosen_on, reported_on) in by_benchmark(selection, report).items():
        sizes = [(len(budgets), 1.0)] if method == "grid" else rung_sizes(len(budgets), eta)
        found = _select(table, chosen_on, budgets, sizes, eta, settings)
        ends = {number: found.points[number] for number in (0, found.chosen)}
        table.fill(reported_on, [budgets[number] for number in ends])
        strata = [sample.stratum for sample in reported_on]
        scores = {number: table.scores(reported_on, budgets[number]) for number in ends}
        for number, point in ends.items():
            found.points[number] = replace(
                point,
                report=estimate(scores[number], strata, **settings),
                report_visual_tokens=table.mean_visual_tokens(reported_on, budgets[number]),
            )
        gains = [best - first for best, first in zip(scores[found.chosen], scores[0], strict=True)]
        results[benchmark] = ResolutionResult(
            benchmark=benchmark,
            method=method,
            eta=eta if method == "halving" else None,
            **settings,
            num_selection=len(chosen_on),
            num_report=len(reported_on),
            grid=found.points,
            default=found.points[0],
            chosen=found.points[found.chosen],
            difference=estimate(gains, strata, **settings),
            rungs=found.rungs,
            cost=found.cost,
        )
    return results


def rung_sizes(num_budgets: int, eta: int = 2) -> list[tuple[int, float]]:
    """(budgets, share of the samples) of each rung of successive halving; the last rung has all samples."""
    counts = [num_budgets]
    while (kept := math.ceil(counts[-1] / eta)) > 1:
        counts.append(kept)
    return [(count, float(eta) ** (number + 1 - len(counts))) for number, count in enumerate(counts)]


@dataclass(frozen=True)
class _Selected:
    points: list[BudgetScore]
    chosen: int
    rungs: list[Rung]
    cost: SearchCost


def _select(
    table: ScoreTable,
    samples: list[SearchSample],
    budgets: list[Budget],
    sizes: list[tuple[int, float]],
    eta: int,
    settings: dict[str, Any],
) -> _Selected:
    alive = list(range(len(budgets)))
    tokens = [table.mean_visual_tokens(samples, budget) for budget in budgets]
    estimates: dict[int, Estimate] = {}
    rungs, asked = [], {}
    for count, share in sizes:
        alive = alive[:count]
        part = _share_of(samples, share, settings["seed"])
        strata = [sample.stratum for sample in part]
        table.fill(part, [budgets[number] for number in sorted(alive)])
        means = {}
        for number in alive:
            scores = table.scores(part, budgets[number])
            means[number] = mean_of_strata(scores, strata)
            estimates[number] = estimate(scores, strata, **settings)
            for sample in part:
                asked[table.cell(sample, budgets[number])] = visual_tokens(table.grid(sample, budgets[number]))
        rungs.append(Rung(len(alive), len(part)))
        alive.sort(key=lambda number: (-means[number], tokens[number], number))
    points = [BudgetScore(low, high, tokens[number], estimates[number]) for number, (low, high) in enumerate(budgets)]
    separate = sum(visual_tokens(table.grid(sample, budget)) for sample in samples for budget in budgets)
    cost = SearchCost(len(asked), len(samples) * len(budgets), sum(asked.values()), separate)
    return _Selected(points, alive[0], rungs, cost)


def _share_of(samples: list[SearchSample], share: float, seed: int) -> list[SearchSample]:
    """A share of each stratum, drawn by the seed; a larger share holds all of a smaller one."""
    strata: dict[str, list[SearchSample]] = {}
    for sample in samples:
        strata.setdefault(sample.stratum, []).append(sample)
    chosen: list[SearchSample] = []
    for name, its in sorted(strata.items()):
        random.Random(f"{seed} {name}").shuffle(its)
        chosen += its[: max(math.ceil(share * len(its)), min(len(its), MIN_RUNG_SAMPLES))]
    return chosen
