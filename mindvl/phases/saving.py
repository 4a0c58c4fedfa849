"""A trained model leaves as a folder: weights, config and tokenizer, as `MindVL.from_pretrained` reads it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lightning as L


class SaveModel(L.Callback):
    """Writes the model's folder when a fit has reached its last step.

    The folder appears whole or not at all: it is written under a temporary name and renamed.

    Args:
        folder: where it goes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step < trainer.max_steps or not trainer.is_global_zero:
            return
        save_model(pl_module.model, pl_module.tokenizer_name, self.folder)


def save_model(model, tokenizer_name: str, folder: Path) -> None:
    """Weights, config and tokenizer of a model in one folder, replacing what was there."""
    from mindvl.data.tokenizer import load_tokenizer

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    load_tokenizer(tokenizer_name).save_pretrained(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
