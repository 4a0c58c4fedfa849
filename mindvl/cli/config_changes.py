"""What a config says now that it did not say when the run was stopped.

A run goes on with the same command; whoever has edited its config in between is told what differs. What must not
differ is refused where it matters: the plan by the data module, the model's shapes by the phase.

A config is the run's once a batch has gone through under it: a start that fails, at a misspelt operator or for want of
memory, leaves the config of the run before as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback


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


class SaveConfigOnceBegun(SaveConfigCallback):
    """Saves the config beside the run's numbers after a fit's first batch; Lightning does before there is a model.

    The other verbs save theirs when they start: ranks need not have a batch each, and saving is of all of them.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pass

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        self._save(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._save(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, trainer.state.fn or "")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested config that is no mapping itself."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
