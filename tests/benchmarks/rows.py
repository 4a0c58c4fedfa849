"""A measured number, and the file that keeps the last one of each name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mindvl.device import device_name


@dataclass(frozen=True)
class Row:
    """A number with its unit, the rival it stands against (empty when it has none) and the machine it comes from."""

    name: str
    value: float
    unit: str
    against: str = ""
    machine: str = field(default_factory=device_name)


def merge_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the rows of these names in a JSON list and keep all others."""
    known = json.loads(path.read_text()) if path.exists() else []
    merged = {row["name"]: row for row in known} | {row.name: asdict(row) for row in rows}
    path.write_text(json.dumps([merged[name] for name in sorted(merged)], indent=2) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text, the machines below."""
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:<{width}}  {row.value:>8.3f} {row.unit:<6} {row.against}".rstrip() for row in rows]
    return "\n".join([*lines, "", *sorted({row.machine for row in rows})])
