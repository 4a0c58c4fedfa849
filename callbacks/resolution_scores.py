"""A table of scores that is filled on demand: each distinct input once, shared out over ranks, kept on disk.

A cell is (benchmark, sample, grid). Three budgets that leave a picture as it is are one cell; eight budgets on 400
samples, 3,200 scores, may be 1,300 cells. Ranks ask for every second, third, ... missing cell and tell each other
what they found, so that afterwards all of them have the same table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .resolution_cache import ScoreCache
from .resolution_samples import Budget, Grid, GridOf, Score, SearchSample, visual_tokens


@dataclass(frozen=True)
class Ranks:
    """Who else fills the table. `gather` hands a list of JSON values over and returns those of all ranks, by rank."""

    rank: int
    world_size: int
    gather: Callable[[list], list[list]]


ALONE = Ranks(0, 1, lambda mine: [mine])


class ScoreTable:
    """Scores of samples at budgets, each distinct (sample, grid) asked for once.

    Args:
        score: asked for batches of samples of one benchmark at one budget.
        grid_of: what a budget makes of a sample.
        batch_size: samples per batch, at most.
        cache: where scores are kept; nowhere by default.
        ranks: all of them call `fill` with the same samples, in the same order.
    """

    def __init__(
        self,
        score: Score,
        grid_of: GridOf,
        *,
        batch_size: int = 64,
        cache: ScoreCache | None = None,
        ranks: Ranks = ALONE,
    ):
        self.score, self.grid_of, self.batch_size, self.cache, self.ranks = score, grid_of, batch_size, cache, ranks
        self._grids: dict[tuple[str, str, Budget], Grid] = {}
        self._scores: dict[str, float] = {}
        if cache is not None:
            for known in ranks.gather([cache.read()]):
                self._scores |= known[0]
        self.num_kept = len(self._scores)

    def grid(self, sample: SearchSample, budget: Budget) -> Grid:
        where = (sample.benchmark, sample.key, budget)
        if where not in self._grids:
            self._grids[where] = self.grid_of(sample, budget)
        return self._grids[where]

    def cell(self, sample: SearchSample, budget: Budget) -> str:
        """Name of the input that the budget makes of the sample."""
        return json.dumps([sample.benchmark, sample.key, self.grid(sample, budget)], separators=(",", ":"))

    def mean_visual_tokens(self, samples: Sequence[SearchSample], budget: Budget) -> float:
        return sum(visual_tokens(self.grid(sample, budget)) for sample in samples) / len(samples)

    def scores(self, samples: Sequence[SearchSample], budget: Budget) -> list[float]:
        """Scores that are in the table already."""
        return [self._scores[self.cell(sample, budget)] for sample in samples]

    def fill(self, samples: Sequence[SearchSample], budgets: Sequence[Budget]) -> None:
        """Ask for what is missing of the samples at the budgets.

        Raises ValueError when ranks were given different samples, or when the scorer returns another number of scores
        than it was given samples, or one that is not finite.
        """
        missing: dict[str, tuple[int, int, SearchSample]] = {}
        for number, budget in enumerate(budgets):
            for sample in samples:
                cell = self.cell(sample, budget)
                if cell not in self._scores and cell not in missing:
                    missing[cell] = (number, visual_tokens(self.grid(sample, budget)), sample)
        # Neighbours are of like size: batches are little padded, and ranks get equal shares of the work.
        order = sorted(missing, key=lambda cell: (*missing[cell][:2], cell))
        found: dict[str, float] = {}
        for number, cells in _batches(order[self.ranks.rank :: self.ranks.world_size], missing, self.batch_size):
            batch = [missing[cell][2] for cell in cells]
            scored = dict(zip(cells, self._ask(batch, budgets[number]), strict=True))
            found |= scored
            if self.cache is not None:
                self.cache.add(scored)
        wanted = hashlib.blake2b("\n".join(order).encode(), digest_size=8).hexdigest()
        rows = self.ranks.gather([wanted, len(order), found])
        for rank, (others, count, theirs) in enumerate(rows):
            if others != wanted:
                raise ValueError(
                    f"rank {rank} was given other samples: it lacks {count} scores, rank {self.ranks.rank} "
                    f"lacks {len(order)}, or not the same"
                )
            self._scores |= theirs

    def _ask(self, batch: Sequence[SearchSample], budget: Budget) -> list[float]:
        scores = [float(score) for score in self.score(batch, budget)]
        if len(scores) != len(batch):
            raise ValueError(f"the scorer was given {len(batch)} samples and returned {len(scores)} scores")
        for sample, score in zip(batch, scores, strict=True):
            if not math.isfinite(score):
                raise ValueError(f"{sample.benchmark}: sample {sample.key!r} scores {score} at {budget}")
        return scores


def _batches(
    cells: Sequence[str], missing: dict[str, tuple[int, int, SearchSample]], batch_size: int
) -> Iterable[tuple[int, list[str]]]:
    """(number of the budget, cells) of batches, each of one budget."""
    batch: list[str] = []
    for cell in cells:
        if batch and (missing[batch[0]][0] != missing[cell][0] or len(batch) == batch_size):
            yield missing[batch[0]][0], batch
            batch = []
        batch.append(cell)
    if batch:
        yield missing[batch[0]][0], batch
