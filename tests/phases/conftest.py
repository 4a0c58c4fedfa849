"""A real Trainer, quiet, and what a fit leaves behind."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader


class Record(L.Callback):
    """Loss of every optimizer step, and the gradients that the optimizer used last."""

    def __init__(self):
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer, pl_module):
        def after_step(*_):
            named = pl_module.model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

        trainer.optimizers[0].register_step_post_hook(after_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())


@pytest.fixture
def make_trainer(tmp_path):
    def make(*, max_steps: int = 1, callbacks: tuple = (), **settings) -> L.Trainer:
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "devices": 1,
                "max_steps": max_steps,
                "max_epochs": -1,
                "callbacks": list(callbacks),
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "default_root_dir": tmp_path,
                **settings,
            }
        )

    return make


@pytest.fixture
def fit_packs(make_trainer):
    """Fit a phase on packs in memory, one step over all of them unless told otherwise; returns the record."""

    def fit(phase, packs, *, accumulate: int | None = None, max_steps: int = 1, **settings) -> Record:
        record = Record()
        trainer = make_trainer(
            max_steps=max_steps,
            accumulate_grad_batches=accumulate or len(packs),
            callbacks=(record,),
            limit_val_batches=0,
            **settings,
        )
        trainer.fit(phase, DataLoader(list(packs), batch_size=None), val_dataloaders=[])
        return record

    return fit


@pytest.fixture
def with_weights(make_model):
    """A phase that starts from the large random weights of `make_model`."""
    from mindvl.model.parts import train_only

    def start(phase, *, seed: int = 0):
        phase.model = make_model(seed=seed).train()
        train_only(phase.model, phase.trains)
        return phase

    return start
