"""What a config says now that it did not say when the run was stopped.

A run goes on with the same command; whoever has edited its config in between is told what differs. What must not
differ is refused where it matters: the plan by the data module, the model's shapes by the phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def config_changes(saved: Path, now: str) -> list[str]:
    """One line per key whose value differs between a saved config file and one in YAML; nothing without a file."""
    if not saved.is_file():
        return []
    before = dict(_flat(yaml.safe_load(saved.read_text(encoding="utf-8"))))
    after = dict(_flat(yaml.safe_load(now)))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent") and key != "ckpt_path"
    ]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested config that is no mapping itself."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
