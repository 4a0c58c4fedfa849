"""What a run could not use: counted by source, shard and reason, over all ranks, through every resume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mindvl.batch import SkippedSample

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

log = logging.getLogger(__name__)

EXAMPLES = 20
"""Keys that are kept per source and reason."""

FORGIVEN = 10
"""So many samples may always be skipped, whatever their share: a short run must not end over its first one."""


class SkippedSamples:
    """Counts of one rank since it started, and those of all ranks that the checkpoint brought.

    `check` raises ValueError when more than `max_ratio` of this rank's samples could not be used.
    """

    def __init__(self, max_ratio: float):
        self.max_ratio = max_ratio
        self.group: ProcessGroup | None = None
        """Ranks that read different packs; None is all ranks."""
        self._own: Counter[tuple[str, str, str]] = Counter()
        self._earlier: Counter[tuple[str, str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[str]] = {}
        self._seen = self._earlier_seen = 0

    def add(self, skipped: Sequence[SkippedSample], *, used: int, step: int) -> None:
        """Count what a pack left out; `used` is the number of its samples that were good."""
        self._seen += used + len(skipped)
        for sample in skipped:
            examples = self._examples.setdefault((sample.source, sample.reason), [])
            if not examples:
                log.warning(
                    "step %d: left out sample %s of %s (source %s): %s",
                    step, sample.key, sample.shard, sample.source, sample.reason,
                )  # fmt: skip
            if len(examples) < EXAMPLES:
                examples.append(f"{sample.shard}: {sample.key}")
            self._own[(sample.source, sample.shard, sample.reason)] += 1

    def check(self) -> None:
        """Stop a run whose data is bad before hours are spent on the rest."""
        skipped = sum(self._own.values())
        if skipped > FORGIVEN and skipped > self.max_ratio * self._seen:
            raise ValueError(
                f"{skipped} of {self._seen} samples could not be used, more than max_skipped_ratio={self.max_ratio}: "
                f"{self.by_reason()}"
            )

    @property
    def total(self) -> int:
        """Samples left out, of all ranks before the last resume and of this rank since."""
        return sum(self._own.values()) + sum(self._earlier.values())

    def by_reason(self) -> dict[str, int]:
        """Counts by "source: reason"."""
        counts: Counter[str] = Counter()
        for (source, _, reason), count in (self._own + self._earlier).items():
            counts[f"{source}: {reason}"] += count
        return dict(counts)

    def state_dict(self) -> dict:
        """Counts over all ranks; every rank must call it."""
        own = {"counts": self._own, "seen": self._seen, "examples": self._examples}
        ranks: list = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * torch.distributed.get_world_size(self.group)
            torch.distributed.all_gather_object(ranks, own, group=self.group)
        counts, examples = Counter(self._earlier), dict[tuple[str, str], list[str]]()
        for rank in ranks:
            counts.update(rank["counts"])
            for place, keys in rank["examples"].items():
                merged = examples.setdefault(place, [])
                merged.extend(key for key in keys if key not in merged)
        return {
            "seen": self._earlier_seen + sum(rank["seen"] for rank in ranks),
            "counts": [[*place, count] for place, count in sorted(counts.items())],
            "examples": [[*place, keys[:EXAMPLES]] for place, keys in sorted(examples.items())],
        }

    def load_state_dict(self, state: dict) -> None:
        self._earlier = Counter({(source, shard, reason): n for source, shard, reason, n in state["counts"]})
        self._examples = {(source, reason): list(keys) for source, reason, keys in state["examples"]}
        self._earlier_seen = state["seen"]
        self._own, self._seen = Counter(), 0
