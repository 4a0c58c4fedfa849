"""How many bad samples a run puts up with: a few always, beyond them a share.

A source of 1,000 samples may lack 50 of them under `max_skipped_ratio: 0.05`, one of 30 samples 10 of them. The same
ceiling holds twice: before training, for what indexing has found damaged, and on the way, for what fails when it is
read. Samples that are too large for a pack are good ones, which the run's own budgets leave out; they do not count.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindvl.data.table import SampleTable

FORGIVEN = 10
"""So many samples may always be bad, whatever their share: a short run must not end over its first one."""

_REASONS = 5
"""Reasons that an error spells out."""


def is_over(bad: int, *, of: int, max_ratio: float) -> bool:
    """Whether `bad` samples are too many among `of`."""
    return bad > FORGIVEN and bad > max_ratio * of


def check_damaged(table: SampleTable, *, max_ratio: float) -> None:
    """Refuse a source of which too much is damaged; ValueError says how much, and why."""
    usable = dict(zip(table.names, (table.starts[1:] - table.starts[:-1]).tolist(), strict=True))
    for name in table.names:
        left_out = {item: count for item, count in table.left_out.items() if item.source == name}
        total = usable[name] + sum(left_out.values())
        reasons: Counter[str] = Counter()
        for item, count in left_out.items():
            if not item.too_large:
                reasons[item.reason] += count
        if is_over(reasons.total(), of=total, max_ratio=max_ratio):
            raise ValueError(
                f"source {name} ({table.sources[name].shards}): {reasons.total()} of {total} samples "
                f"({reasons.total() / total:.1%}) cannot be used, more than max_skipped_ratio={max_ratio}: "
                f"{most_common(reasons)}"
            )


def most_common(reasons: Counter[str]) -> str:
    """Counts by reason in words: `12 x no supervised token, 3 x ...`."""
    spelled = [f"{count} x {reason}" for reason, count in reasons.most_common(_REASONS)]
    others = len(reasons) - len(spelled)
    return ", ".join(spelled) + (f" and {others} other reasons" if others > 0 else "")
