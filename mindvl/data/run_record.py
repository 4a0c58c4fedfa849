"""The consumed-data record of a run, read from its folder or from one of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mindvl.data.storage import write_whole

RECORD = "consumed.json"
"""Written into a run's folder when it ends; while it runs, its checkpoints hold the record."""

_REST = "meta.pt"
"""Of a checkpoint that is a directory, the file that holds all but the tensors."""


def load_record(run: Path) -> dict[str, Any]:
    """The newest record of a run, with `skipped`: [source, shard, reason, samples] of what failed while training.

    Raises ValueError when there is none.
    """
    if not run.exists():
        raise ValueError(f"{run} does not exist")
    if run.is_file() or (run / _REST).is_file():
        return _of_checkpoint(run)
    finished, last = run / RECORD, run / "checkpoints" / "last.ckpt"
    newest = max(
        (path for path in (finished, last) if path.is_file() or (path / _REST).is_file()),
        key=lambda p: p.stat().st_mtime_ns,
        default=None,
    )
    if newest is None:
        raise ValueError(f"{run} holds no record of a run: neither {RECORD} nor checkpoints/last.ckpt")
    return _of_checkpoint(newest) if newest == last else json.loads(finished.read_text(encoding="utf-8"))


def _of_checkpoint(path: Path) -> dict[str, Any]:
    file = path / _REST if path.is_dir() else path
    checkpoint = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    state = checkpoint.get("PackedShards")
    if state is None or "consumed" not in state:
        raise ValueError(f"{path} holds no record of consumed data")
    return complete(state, checkpoint.get("skipped"))


def complete(state: dict[str, Any], skipped: dict[str, Any] | None) -> dict[str, Any]:
    """The data module's record with what the phase counted on the way."""
    skipped = skipped or {"counts": [], "examples": [], "seen": 0}
    return {**state, "skipped": skipped["counts"], "skipped_examples": skipped["examples"]}


def write_record(run: Path, state: dict[str, Any], skipped: dict[str, Any] | None) -> None:
    """Write the record into a run's folder, whole."""
    record = json.dumps(complete(state, skipped), indent=1, ensure_ascii=False)
    write_whole(str(run / RECORD), record.encode())
