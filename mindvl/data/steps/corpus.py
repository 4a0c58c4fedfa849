"""What a corpus step is: a step whose verdict on one sample depends on the others.

It comes in two halves, so that it too runs anywhere. `signature` looks at one sample and returns a few bytes, in
parallel; `verdicts` sees all signatures at once, in one process and in a fixed order. A million samples with hashes of
512 bytes are half a gigabyte there; pictures are never held together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Entry:
    """A sample as a corpus step sees it. An empty signature has nothing to compare: the sample stays."""

    key: str
    split: str
    signature: bytes


class CorpusStep(Protocol):
    """A frozen dataclass whose fields are the arguments of the step in a recipe."""

    def signature(self, sample) -> bytes:
        """What the verdict needs to know of a sample."""
        ...

    def verdicts(self, entries: Sequence[Entry]) -> list[str | None]:
        """For each entry the reason for which it is dropped, or None. Earlier entries have precedence."""
        ...
