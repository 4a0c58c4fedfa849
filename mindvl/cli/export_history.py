"""Where an exported model comes from, as far as the folders of its runs tell: nothing is guessed.

A run's folder holds its config and the record of the data that it saw; an average holds its sources. From the
exported checkpoint the walk goes back, through `start_from` and through averages, until a folder is not there.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindvl.cli.export_source import RUN_CONFIGS, run_config
from mindvl.model.export.card import Stage

AVERAGE = "averaging.json"


def history(checkpoint: Path) -> list[Stage]:
    """The runs and averages that led to a checkpoint, the last first; each once."""
    return list(_walk(checkpoint, set()))


def _walk(checkpoint: Path, seen: set[Path]) -> Iterator[Stage]:
    if checkpoint.resolve() in seen:
        return
    seen.add(checkpoint.resolve())
    average = _average(checkpoint)
    if average is not None:
        yield average
        for source, _ in average.sources:
            yield from _walk(Path(source), seen)
        return
    run = checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    file = next((run / name for name in RUN_CONFIGS if (run / name).is_file()), None)
    if file is None:
        return
    try:
        config = run_config(file)
    except ValueError:
        return
    model, start_from = config.get("model"), None
    phase = model.get("class_path") if isinstance(model, dict) else None
    if isinstance(model, dict):
        start_from = _at(model, "init_args", "model", "start_from")
    yield Stage(
        where=str(checkpoint),
        phase=None if phase is None else str(phase).rsplit(".", 1)[-1],
        steps=_at(config, "trainer", "max_steps"),
        sequence_length=_at(config, "data", "init_args", "sequence_length"),
        data=_consumed(checkpoint, run),
        start_from=start_from,
    )
    if start_from is not None:
        yield from _walk(Path(start_from), seen)


def _average(checkpoint: Path) -> Stage | None:
    file = checkpoint / AVERAGE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        sources = tuple((str(source["path"]), float(source["weight"])) for source in record["sources"])
        return Stage(where=str(checkpoint), phase=str(record["method"]), sources=sources)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no record of an average: {error!r}") from error


def _consumed(checkpoint: Path, run: Path) -> dict[str, dict[str, Any]]:
    """By source, what the run had seen; of a Lightning file what is noted in it."""
    from mindvl.data.run_record import load_record

    try:
        return load_record(checkpoint if checkpoint.is_file() else run)["consumed"]
    except (ValueError, KeyError, OSError, RuntimeError, pickle.UnpicklingError):
        return {}


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
