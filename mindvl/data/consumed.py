"""What a run has seen: exact, because it is read off the plan and not counted by workers.

The packs that a run has trained on are numbers 0 to `next_pack` of its plan, so how often each sample was drawn follows
from the plan alone, after any number of stops. Samples that failed when they were read are taken off, one by one: of
1,000 drawn with 3 failures the record holds 997. A run that took up another plan on its way keeps the record of the
earlier one as it stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindvl.data.mixture import Earlier
from mindvl.data.plan import PackPlan
from mindvl.data.table import SampleTable


class ConsumedData:
    """Counts how often each sample of the table was drawn, going through the plan as the run does."""

    def __init__(self, table: SampleTable, plan: PackPlan):
        self.table, self.plan = table, plan
        self._times = np.zeros(len(table), np.int64)
        self._counted = 0

    def record(self, next_pack: int, *, skipped: Mapping[int, int] | None = None) -> dict[str, dict[str, Any]]:
        """By source, what packs 0 to `next_pack` hold (the last not included), less what was `skipped`: times by row.

        | key | meaning |
        |---|---|
        | `samples` | samples of the source in the plan |
        | `drawn` | samples trained on, repetitions counted |
        | `times_drawn` | samples by how often they were trained on: {"0": 10, "1": 90} |
        | `epochs` | passes over the source, `drawn / samples` |
        | `tokens`, `supervised_tokens`, `images`, `patches` | sums over what was trained on |
        | `skipped` | samples that were drawn besides and could not be used |
        """
        if next_pack < self._counted:
            self._times[:], self._counted = 0, 0
        self._times += self.plan.times_drawn(self._counted, next_pack)
        self._counted = next_pack
        failed = np.zeros_like(self._times)
        for row, count in (skipped or {}).items():
            failed[row] = count
        table = self.table
        sums = {"tokens": table.tokens, "supervised_tokens": table.supervised}
        sums |= {"images": table.images, "patches": table.patches}
        record = {}
        for number, name in enumerate(table.names):
            part = slice(int(table.starts[number]), int(table.starts[number + 1]))
            times = self._times[part] - failed[part]
            counts = np.bincount(times)
            record[name] = {
                "samples": len(times),
                "drawn": int(times.sum()),
                "epochs": round(float(times.sum()) / len(times), 4),
                "times_drawn": {str(n): int(counts[n]) for n in np.flatnonzero(counts).tolist()},
                **{key: int(column[part].astype(np.int64) @ times) for key, column in sums.items()},
                "skipped": int(failed[part].sum()),
            }
        return record


def earlier_plans(closed: Sequence[Mapping[str, Any]], names: Sequence[str], *, first_epoch: int) -> Earlier | None:
    """What the closed plans of a run have made of the sources that the next plan names; None without a closed plan."""
    if not closed:
        return None
    records = [[plan["consumed"].get(name, {}) for plan in closed] for name in names]
    drawn = [sum(record.get("drawn", 0) + record.get("skipped", 0) for record in plans) for plans in records]
    reached = dict(zip(names, drawn, strict=True))  # of a plan that has not kept it
    for plan in closed:
        reached |= {name: samples for name, samples in (plan.get("reached") or {}).items() if name in reached}
    return Earlier(first_epoch, np.asarray(drawn, np.int64), np.asarray(list(reached.values()), np.int64))


def shares(record: dict[str, dict[str, Any]], key: str = "tokens") -> dict[str, float]:
    """Each source's share of what was drawn."""
    total = sum(source[key] for source in record.values())
    return {name: source[key] / total if total else 0.0 for name, source in record.items()}


def left_out(table: SampleTable) -> list[list[Any]]:
    """[source, shard, reason, samples] of everything that was left out before training."""
    rows = [[item.source, item.shard, item.reason, count] for item, count in table.left_out.items()]
    return sorted(rows, key=lambda row: row[:3])


def format_record(record: dict[str, dict[str, Any]]) -> str:
    """The record as aligned text, one line a source."""
    head = ("source", "samples", "drawn", "epochs", "seen", "most often", "tokens", "share", "learnt", "images")
    token_shares = shares(record)
    rows = [head]
    for name, source in record.items():
        times = {int(number): count for number, count in source["times_drawn"].items()}
        seen = source["samples"] - times.get(0, 0)
        rows.append((
            name, f"{source['samples']:,}", f"{source['drawn']:,}", f"{source['epochs']:.2f}", f"{seen:,}",
            f"{max(times, default=0)} x", f"{source['tokens']:,}", f"{token_shares[name]:.1%}",
            f"{source['supervised_tokens']:,}", f"{source['images']:,}",
        ))  # fmt: skip
    return format_table(rows)


def format_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns aligned: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
