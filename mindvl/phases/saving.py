"""A trained model leaves as a folder: weights, config and tokenizer, as `MindVL.from_pretrained` reads it.

Adapters (`model.lora`) are merged into the weights they stand beside, so the folder is that of any other MindVL; what
was trained alone lies next to it, as peft reads it:

    runs/sft/model/            config.json, model.safetensors, tokenizer ...
    runs/sft/model-adapter/    adapter_config.json, adapter_model.safetensors
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning as L


class SaveModel(L.Callback):
    """Writes the model's folder when a fit has reached its last step.

    A folder appears whole or not at all: it is written under a temporary name and renamed.

    Args:
        folder: where it goes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from mindvl.phases.sharded_saving import is_sharded

        if trainer.global_step < trainer.max_steps:
            return
        if is_sharded(pl_module.model):
            save_sharded_model(pl_module.model, pl_module.tokenizer_name, self.folder, first=trainer.is_global_zero)
            trainer.strategy.barrier()
        elif trainer.is_global_zero:
            save_model(pl_module.model, pl_module.tokenizer_name, self.folder)


def save_model(model, tokenizer_name: str, folder: Path) -> None:
    """Weights, config and tokenizer of a model in one folder, and its adapters in another; replaces what was there."""
    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.model.lora import has_adapters, merged_weights, save_adapters

    adapted = has_adapters(model)

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary, state_dict=merged_weights(model) if adapted else None)
        load_tokenizer(tokenizer_name).save_pretrained(temporary)

    if adapted:
        _appear(folder.with_name(f"{folder.name}-adapter"), lambda temporary: save_adapters(model, temporary))
    _appear(folder, write)


def save_sharded_model(model, tokenizer_name: str, folder: Path, *, first: bool) -> None:
    """The same folders from a sharded model; every rank must call it, the first writes."""
    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.model.lora import adapter_state, has_adapters, merged_weights, save_adapters
    from mindvl.phases.sharded_saving import save_sharded

    adapters = adapter_state(model) if has_adapters(model) else None
    state = merged_weights(model) if adapters else model.state_dict()
    state = {name: tensor for name, tensor in state.items() if name not in model.all_tied_weights_keys}

    def write(temporary: Path) -> None:
        temporary.mkdir(parents=True)
        model.config.architectures = ["MindVL"]
        model.config.dtype = next(model.parameters()).dtype
        model.config.save_pretrained(temporary)
        model.generation_config.save_pretrained(temporary)
        load_tokenizer(tokenizer_name).save_pretrained(temporary)
        save_sharded(state, temporary)

    if first and adapters:
        beside = folder.with_name(f"{folder.name}-adapter")
        _appear(beside, lambda temporary: save_adapters(model, temporary, state=adapters))
    if first:
        _appear(folder, write)
    else:
        save_sharded(state, folder)


def _appear(folder: Path, write: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    write(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
