"""A plan, not a buffer: packs are decided from the indexes alone, before a picture is opened.

The plan is a pure function of (token and patch counts, weights, budgets, seed). Nothing else is state, so a run is
resumed by one number, the next pack, with any number of workers or ranks.

A round draws from each source `weight` passes over its samples (0.5: every second round sees a sample; 2: twice a
round), in an order that is shuffled anew each pass. A window of the round is packed by best fit with two capacities,
tokens of the language model and patches of the tower: samples that fill much of a pack go first, longest first; the
many small ones follow in shuffled order, so that packs stay mixed (sorted by length, they would hold one kind of
sample each, and the gradient of a step would be that of one task).

    budget 10 tokens, 8 patches      samples (tokens, patches): a(6,8) b(5,0) c(4,4) d(3,4) e(2,0)
    packs                            [a e] tokens 8 patches 8     [b c] 9, 4     [d] 3, 4
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WINDOW_SAMPLES = 2048
"""Samples packed together: large enough that packs are full, small enough that rounds stay shuffled."""

LARGE_SHARE = 1 / 8
"""Samples that take more than this of a pack's tokens or patches are placed first."""


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


@dataclass(frozen=True)
class PackPlan:
    """Columns over all samples of all sources, and the rule that turns them into an endless list of packs."""

    tokens: np.ndarray
    patches: np.ndarray
    images: np.ndarray
    source_starts: np.ndarray
    """(sources + 1): samples of source s are rows source_starts[s] to source_starts[s+1]."""
    weights: np.ndarray
    """(sources): passes over the source per round."""
    budget: PackBudget
    seed: int

    @property
    def fingerprint(self) -> str:
        """Short hash of everything that decides the packs."""
        state = hashlib.blake2b(digest_size=8)
        for column in (self.tokens, self.patches, self.images, self.source_starts, self.weights):
            state.update(np.ascontiguousarray(column).tobytes())
        state.update(repr((self.budget, self.seed)).encode())
        return state.hexdigest()

    def round_order(self, number: int) -> np.ndarray:
        """Samples of one round, shuffled over sources."""
        chosen = []
        for source, weight in enumerate(self.weights):
            start, stop = int(self.source_starts[source]), int(self.source_starts[source + 1])
            size = stop - start
            if size == 0:
                continue
            first, last = int(number * weight * size), int((number + 1) * weight * size)
            for passed in range(first // size, -(-last // size)):
                order = np.random.default_rng((self.seed, source, passed)).permutation(size) + start
                chosen.append(order[max(0, first - passed * size) : last - passed * size])
        samples = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
        return np.random.default_rng((self.seed, len(self.weights), number)).permutation(samples)

    def round(self, number: int) -> list[np.ndarray]:
        """Packs of one round: each an array of sample rows."""
        order = self.round_order(number)
        if len(order) == 0:
            raise ValueError(f"round {number} of the plan holds 0 samples: every source is empty or has weight 0")
        packs: list[np.ndarray] = []
        for start in range(0, len(order), WINDOW_SAMPLES):
            packs.extend(self._pack_window(order[start : start + WINDOW_SAMPLES]))
        shuffle = np.random.default_rng((self.seed, len(self.weights) + 1, number)).permutation(len(packs))
        return [packs[position] for position in shuffle]

    def _pack_window(self, rows: np.ndarray) -> list[np.ndarray]:
        """Best fit: each sample goes to the pack that it leaves with the fewest free tokens."""
        budget = self.budget
        size = np.maximum(self.tokens[rows] / budget.tokens, self.patches[rows] / budget.patches)
        rows = rows[np.argsort(np.where(size > LARGE_SHARE, -size, 0), kind="stable")]
        free = np.zeros((len(rows), 3), np.int64)
        members: list[list[int]] = []
        opened = 0
        for row in rows.tolist():
            need = (self.tokens[row], self.patches[row], self.images[row])
            fits = (free[:opened] >= need).all(axis=1)
            if fits.any():
                pack = int(np.where(fits, free[:opened, 0], np.iinfo(np.int64).max).argmin())
            else:
                pack, opened = opened, opened + 1
                free[pack] = budget.tokens, budget.patches, budget.images
                members.append([])
            free[pack] -= need
            members[pack].append(row)
        return [np.asarray(pack) for pack in members]

    def packs(self, start: int = 0) -> Iterator[np.ndarray]:
        """The endless list of packs from number `start` on."""
        number = passed = 0
        while True:
            packs = self.round(number)
            if passed + len(packs) > start:
                yield from packs[max(0, start - passed) :]
            passed += len(packs)
            number += 1
