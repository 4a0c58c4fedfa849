"""A plan, not a buffer: packs are decided from the indexes alone, before a picture is opened.

The plan is a pure function of (sample counts, mixture, budgets, packs per step, seed). Nothing else is state, so a run
is resumed by one number, the next pack, with any number of workers or ranks.

    indexes --> table of samples --> an epoch's draw --> best fit into packs --> steps of packs that cost alike
                (table.py)           (mixture.py)        (packing.py)            (balance.py)

Packs are numbered through all epochs. An epoch is a whole number of steps, and a step a whole number of packs, one for
each rank and accumulated micro-batch: pack 13 of a plan with 4 packs a step is the second pack of the fourth step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mindvl.data.balance import group_into_steps, spread
from mindvl.data.mixture import NO_LIMIT, Mixture
from mindvl.data.packing import best_fit

_RULE = 2
"""Raised when the same columns and settings give other packs than before: old states are then refused."""


@dataclass(frozen=True)
class PackBudget:
    """What a pack may hold. The number of tokens is the sequence length of the language model."""

    tokens: int
    patches: int
    images: int = 1_000_000

    def __post_init__(self):
        for name in ("tokens", "patches", "images"):
            if getattr(self, name) < 1:
                raise ValueError(f"a pack's budget of {name} is {getattr(self, name)}, it must be at least 1")


@dataclass(frozen=True, eq=False)
class Epoch:
    """The packs of one epoch in the order of training."""

    rows: np.ndarray
    starts: np.ndarray
    """Packs + 1: pack p holds rows[starts[p]:starts[p+1]], samples of the table. A pack may be empty."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pack(self, number: int) -> np.ndarray:
        return self.rows[self.starts[number] : self.starts[number + 1]]

    def sums(self, column: np.ndarray) -> np.ndarray:
        """Per pack, the sum of a column of the table."""
        ends = np.concatenate([np.zeros(1, column.dtype), np.cumsum(column[self.rows])])
        return ends[self.starts[1:]] - ends[self.starts[:-1]]


@dataclass(frozen=True, eq=False)
class PackPlan:
    """Columns over all samples, and the rule that turns them into an endless list of packs."""

    tokens: np.ndarray
    patches: np.ndarray
    images: np.ndarray
    language_cost: np.ndarray
    vision_cost: np.ndarray
    mixture: Mixture
    budget: PackBudget
    packs_per_step: int
    seed: int
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False, compare=False)
    _lengths: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def first_epoch(self) -> int:
        """Number of the epoch that pack 0 belongs to; above 0 for a run that took up another plan on its way."""
        return self.mixture.first_epoch

    @property
    def fingerprint(self) -> str:
        """Short hash of everything that decides the packs."""
        state = hashlib.blake2b(digest_size=8)
        mixture = self.mixture
        for column in (self.tokens, self.patches, self.images, mixture.starts, mixture.sizes, mixture.limits):
            state.update(np.ascontiguousarray(column, np.int64).tobytes())
        for column in (self.language_cost, self.vision_cost, mixture.passes):
            state.update(np.ascontiguousarray(column, np.float64).tobytes())
        if mixture.begins.any():  # of a run's first plan all are 0
            state.update(np.ascontiguousarray(mixture.begins, np.int64).tobytes())
        rule = (_RULE, self.budget, self.packs_per_step, self.seed, mixture.seed, self.first_epoch)
        state.update(repr(rule).encode())
        return state.hexdigest()

    def epoch(self, number: int) -> Epoch:
        """Packs of an epoch, counted from `first_epoch`; the two last ones asked for are kept."""
        if number not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[number] = self._plan_epoch(self.first_epoch + number)
            self._lengths[number] = len(self._epochs[number])
        return self._epochs[number]

    def _plan_epoch(self, number: int) -> Epoch:
        capacity = (self.budget.tokens, self.budget.patches, self.budget.images)
        rows, starts = best_fit(self.mixture.draw(number), self.tokens, self.patches, self.images, capacity=capacity)
        packed = Epoch(rows, starts)
        steps, left = group_into_steps(
            packed.sums(self.language_cost),
            packed.sums(self.vision_cost),
            packs_per_step=self.packs_per_step,
            rng=np.random.default_rng((self.seed, len(self.mixture.sizes) + 1, number)),
        )
        packs = steps.reshape(-1)
        sizes = np.diff(starts)[packs]
        ordered = Epoch(_gather(rows, starts, packs), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        if len(left) == 0:
            return ordered
        last = spread(
            [packed.pack(int(pack)) for pack in left],
            over=self.packs_per_step,
            cost=self.language_cost + self.vision_cost,
            needs=np.stack([self.tokens, self.patches, self.images], axis=1),
            capacity=capacity,
        )
        ends = ordered.starts[-1] + np.cumsum([len(pack) for pack in last])
        return Epoch(np.concatenate([ordered.rows, *last]), np.concatenate([ordered.starts, ends]))

    def locate(self, pack: int) -> tuple[int, int]:
        """(epoch, pack within it) of a pack number. Raises ValueError when the plan ends before it."""
        epoch, wanted = 0, pack
        while True:
            length = self._lengths.get(epoch)
            if length is None:
                length = len(self.epoch(epoch))
            if length == 0 and self.mixture.is_exhausted(self.first_epoch + epoch):
                raise ValueError(f"the plan ends before pack {wanted}: every source has reached its max_epochs")
            if pack < length:
                return epoch, pack
            pack, epoch = pack - length, epoch + 1

    @property
    def ends(self) -> bool:
        """Whether every source has a limit, so that there is a last pack."""
        return bool((self.mixture.limits < NO_LIMIT)[self.mixture.passes > 0].all())

    def packs(self, start: int = 0) -> Iterator[np.ndarray]:
        """Rows of each pack from number `start` on; endless unless every source has a limit."""
        epoch, position = self.locate(start)
        while True:
            packs = self.epoch(epoch)
            if len(packs) == 0 and self.mixture.is_exhausted(self.first_epoch + epoch):
                return
            for number in range(position, len(packs)):
                yield packs.pack(number)
            epoch, position = epoch + 1, 0

    def times_drawn(self, start: int, stop: int) -> np.ndarray:
        """(samples): how often each sample lies in packs `start` to `stop`, the last not included."""
        times = np.zeros(len(self.tokens), np.int64)
        if stop <= start:
            return times
        (first, begin), (last, end) = self.locate(start), self.locate(stop - 1)
        for number in range(first, last + 1):
            packs = self.epoch(number)
            low = packs.starts[begin] if number == first else 0
            high = packs.starts[end + 1] if number == last else len(packs.rows)
            times += np.bincount(packs.rows[low:high], minlength=len(times))
        return times


def _gather(rows: np.ndarray, starts: np.ndarray, packs: np.ndarray) -> np.ndarray:
    """The rows of `packs`, end to end, without a loop over them."""
    sizes = np.diff(starts)[packs]
    ends = np.cumsum(sizes)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    return rows[np.repeat(starts[packs], sizes) + within]
