"""Which samples an epoch draws from each source, and how often.

A mixture gives each source a weight, and says what weights count:

    epochs    passes over the source in an epoch of the plan: 0.5 shows each sample every second epoch, 2 twice in each
    samples   share of the samples
    tokens    share of the tokens

A weighted epoch ends when the first source has been seen once, so no source repeats within it; the others go on in the
next epoch where they stopped. With 1,000 documents of 900 tokens and 4,000 captions of 100, equal weights by tokens
make an epoch of 444 documents and 4,000 captions; the documents have all been seen after 2.25 epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mindvl.data.grouping import in_groups

WeighBy = Literal["epochs", "samples", "tokens"]


@dataclass
class Source:
    """Shards of one kind of data, and how much of it a run sees.

    Args:
        shards: folder, file, glob, braces (`s-{000000..000099}.tar`) or fsspec URL of WebDataset tars.
        weight: what it means is said by the mixture's `weigh_by`: passes per epoch, or a share of samples or tokens.
        max_samples: use at most this many samples, chosen at random once.
        max_epochs: leave the source out once the run has passed over it so often.
    """

    shards: str
    weight: float = 1.0
    max_samples: int | None = None
    max_epochs: float | None = None

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"source {self.shards}: weight is {self.weight}, it must be a finite number, 0 or more")
        for name in ("max_samples", "max_epochs"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"source {self.shards}: {name} is {limit}, it must be a finite number above 0")


@dataclass(frozen=True)
class Earlier:
    """Where a run stands that takes up a new plan: what its plans before this one have made of each source."""

    first_epoch: int
    """Number of the new plan's first epoch."""
    drawn: np.ndarray
    """(sources): samples really drawn, which count towards `max_epochs`; 0 of a source that is new."""
    reached: np.ndarray
    """(sources): samples that all earlier epochs would have drawn; the passes over a source go on behind them."""


@dataclass(frozen=True)
class Mixture:
    """Passes over each source per epoch, and what of it may be drawn at all."""

    starts: np.ndarray
    """(sources + 1): samples of source s are rows starts[s] to starts[s+1]."""
    passes: np.ndarray
    """(sources): passes over a source in an epoch; may be more than 1 when weights count epochs."""
    sizes: np.ndarray
    """(sources): samples of the source that take part."""
    limits: np.ndarray
    """(sources): samples that may be drawn from the first epoch on; a large number without `max_epochs`."""
    seed: int
    begins: np.ndarray
    """(sources): samples drawn before the first epoch: where in the passes over a source the mixture begins."""
    first_epoch: int = 0

    def drawn_before(self, epoch: int) -> np.ndarray:
        """(sources): samples drawn in all epochs before this one."""
        return self.begins + np.minimum(self._wanted(epoch) - self._wanted(self.first_epoch), self.limits)

    def is_exhausted(self, epoch: int) -> bool:
        """Whether every source has come to its limit before this epoch."""
        drawn = self.drawn_before(epoch) - self.begins
        return bool((drawn >= self.limits)[self.passes > 0].all())

    def _wanted(self, epoch: int) -> np.ndarray:
        return np.floor(epoch * self.passes * self.sizes + 1e-9).astype(np.int64)

    def draw(self, epoch: int) -> np.ndarray:
        """Rows of the samples of one epoch, shuffled over sources. Each pass over a source has its own order."""
        first, last = self.drawn_before(epoch), self.drawn_before(epoch + 1)
        chosen = [np.zeros(0, np.int64)]
        for source, size in enumerate(self.sizes.tolist()):
            for passed in range(int(first[source]) // size, -(-int(last[source]) // size)) if size else ():
                begin, end = max(0, int(first[source]) - passed * size), int(last[source]) - passed * size
                rows = self._taking_part(source)
                chosen.append(rows if begin == 0 and end >= size else self._order(rows, source, passed)[begin:end])
        return _shuffled(np.concatenate(chosen), np.random.default_rng((self.seed, len(self.sizes), epoch)))

    def _taking_part(self, source: int) -> np.ndarray:
        """Rows of a source that the run may draw, the same for every pass."""
        start, stop = int(self.starts[source]), int(self.starts[source + 1])
        taking_part = np.arange(start, stop)
        size = int(self.sizes[source])
        if size < len(taking_part):
            generator = np.random.default_rng((self.seed, source, 1 << 32))
            taking_part = np.sort(generator.choice(taking_part, size, replace=False))
        return taking_part

    def _order(self, rows: np.ndarray, source: int, passed: int) -> np.ndarray:
        return _shuffled(rows, np.random.default_rng((self.seed, source, passed)))


_IN_CACHE_ROWS = 1 << 20
_BUCKET_ROWS = 1 << 15


def _shuffled(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random permutation of `rows`; of many, each falls into a random bucket and buckets are shuffled in the cache.

    Swaps over ten million rows leave the cache at every step.
    """
    if len(rows) <= _IN_CACHE_ROWS:
        return rng.permutation(rows)
    buckets = -(-len(rows) // _BUCKET_ROWS)
    shuffled, starts = in_groups(rows, rng.integers(0, buckets, len(rows), dtype=np.int32), buckets)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        rng.shuffle(shuffled[start:stop])
    return shuffled


NO_LIMIT = np.iinfo(np.int64).max


def mix(
    sources: list[Source],
    starts: np.ndarray,
    tokens: np.ndarray,
    *,
    weigh_by: WeighBy,
    seed: int,
    earlier: Earlier | None = None,
) -> Mixture:
    """The mixture of `sources` over a table of samples; `tokens` is the table's column.

    What a run has drawn `earlier`, under other weights, is taken off the limits. A source of 100 samples with
    `max_epochs: 2` of which 130 were drawn gives 70 more, and a source that is new all it has.

    Raises ValueError when all weights are 0 or a weighted source has no sample.
    """
    sizes = np.diff(starts)
    capped = np.asarray([min(int(n), s.max_samples or int(n)) for n, s in zip(sizes, sources, strict=True)], np.int64)
    weights = np.asarray([source.weight for source in sources], np.float64)
    if not (weights[capped > 0] > 0).any():
        raise ValueError(f"the mixture holds 0 samples: weights are {weights.tolist()}, sizes {capped.tolist()}")
    if weigh_by == "epochs":
        passes = weights
    else:
        ends = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
        mean_tokens = (ends[starts[1:]] - ends[starts[:-1]]) / np.maximum(sizes, 1)
        worth = capped * (mean_tokens if weigh_by == "tokens" else 1.0)
        wanted = np.divide(weights, worth, out=np.zeros_like(weights), where=worth > 0)
        passes = wanted / wanted.max()
    limits = [NO_LIMIT if s.max_epochs is None else int(s.max_epochs * n) for s, n in zip(sources, capped, strict=True)]
    left, begins, first_epoch = np.asarray(limits, np.int64), np.zeros(len(sources), np.int64), 0
    if earlier is not None:
        left = np.where(left == NO_LIMIT, NO_LIMIT, np.maximum(left - earlier.drawn, 0))
        begins, first_epoch = earlier.reached, earlier.first_epoch
    return Mixture(np.asarray(starts, np.int64), passes, capped, left, seed, begins, first_epoch)
