"""What a run could not use: counted by source, shard and reason, over all ranks, through every resume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mindvl.batch import SkippedSample
from mindvl.data.ceiling import is_over, most_common

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

log = logging.getLogger(__name__)

EXAMPLES = 20
"""Keys that are kept per source and reason."""


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
        self._rows: Counter[tuple[int, int]] = Counter()
        """How often this rank has skipped a row of the table of samples, by optimizer step and row."""
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
            if sample.row is not None:
                self._rows[(step, sample.row)] += 1

    def check(self) -> None:
        """Stop a run whose data is bad before hours are spent on the rest."""
        skipped = sum(self._own.values())
        if is_over(skipped, of=self._seen, max_ratio=self.max_ratio):
            raise ValueError(
                f"{skipped} of {self._seen} samples ({skipped / self._seen:.1%}) could not be used, more than "
                f"max_skipped_ratio={self.max_ratio}: {most_common(_by_reason(self._own))}"
            )

    @property
    def total(self) -> int:
        """Samples left out, of all ranks before the last resume and of this rank since."""
        return sum(self._own.values()) + sum(self._earlier.values())

    def by_reason(self) -> dict[str, int]:
        """Counts by "source: reason"."""
        return dict(_by_reason(self._own + self._earlier))

    def forget_rows(self) -> None:
        """Rows count from here on, as those of another table."""
        self._rows.clear()

    def rows(self, *, before_step: int) -> Counter[int]:
        """How often all ranks have skipped each row since the start, in steps that are done; every rank must call it.

        What a step that is not done has skipped will be read again when the run goes on from a checkpoint.
        """
        rows: Counter[int] = Counter()
        for rank in self._of_all_ranks([(row, n) for (step, row), n in self._rows.items() if step < before_step]):
            for row, count in rank:
                rows[row] += count
        return rows

    def state_dict(self) -> dict:
        """Counts over all ranks; every rank must call it."""
        own = {"counts": self._own, "seen": self._seen, "examples": self._examples}
        ranks = self._of_all_ranks(own)
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

    def _of_all_ranks(self, own: Any) -> list[Any]:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return [own]
        ranks = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(ranks, own, group=self.group)
        return ranks

    def load_state_dict(self, state: dict) -> None:
        self._earlier = Counter({(source, shard, reason): n for source, shard, reason, n in state["counts"]})
        self._examples = {(source, reason): list(keys) for source, reason, keys in state["examples"]}
        self._earlier_seen = state["seen"]
        self._own, self._seen = Counter(), 0


def _by_reason(counts: Counter[tuple[str, str, str]]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for (source, _, reason), count in counts.items():
        reasons[f"{source}: {reason}"] += count
    return reasons
