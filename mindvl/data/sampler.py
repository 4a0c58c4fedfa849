"""Which packs a rank reads: every rank counts through the plan, and takes its own."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from mindvl.data.plan import PackPlan


class PackSampler(Sampler[list[int]]):
    """`count` packs of one rank: numbers start + rank, start + rank + ranks, ... of the plan.

    Raises ValueError before the first step when the plan holds fewer, because its sources have limits. The length
    counts the `done` packs of a resumed run with those that are left, as Lightning does.
    """

    def __init__(
        self, plan: PackPlan, *, count: int, start: int = 0, done: int = 0, rank: int = 0, world_size: int = 1
    ):
        self.plan, self.count, self.start, self.done = plan, count, start, done
        self.rank, self.world_size = rank, world_size
        if count and plan.ends:
            plan.locate(start + count * world_size - 1)

    def __len__(self) -> int:
        return self.done + self.count

    def __iter__(self) -> Iterator[list[int]]:
        for number, rows in enumerate(self.plan.packs(self.start)):
            if number >= self.count * self.world_size:
                return
            if number % self.world_size == self.rank:
                yield rows.tolist()
