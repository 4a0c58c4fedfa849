"""Fits a phase on packs under a mesh, and compares what it leaves behind with a single process.

A case names a model, a phase, a mesh and settings. The single process takes all packs of a step one after the other;
a mesh shares them out over its data ranks. Losses, gradient norms and weights after the last step must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from mindvl.data.progress import align_batch_progress
from mindvl.parallel import MindVLStrategy
from mindvl.phases import ExpertBalance, ModelSpec, Multitask, Rates, WarmUp
from mindvl.phases.schedule import parameter_groups

STEPS = 2
PACKS_PER_STEP = 4
PHASES = {"multitask": Multitask, "warm-up": WarmUp}


@dataclass(frozen=True)
class Case:
    """One fit: `model` names a file FOLDER/<model>.spec, `mesh` the strategy's arguments (None: a single process)."""

    name: str
    model: str
    mesh: dict[str, Any] | None = None
    phase: str = "multitask"
    adam: bool = False
    experts: dict[str, Any] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


class Packs(Dataset):
    """A step's packs in order: a rank of n takes every n-th."""

    def __init__(self, packs: list):
        self.packs = packs

    def __len__(self):
        return STEPS * len(self.packs)

    def __getitem__(self, number: int):
        return self.packs[number % len(self.packs)]


class Own:
    """This rank's share of a step's packs; the strategy, if any, says which that is."""

    def __init__(self, packs: list):
        self.packs = packs

    def of(self, trainer: L.Trainer) -> DataLoader:
        place = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        numbers = range(place["rank"], STEPS * PACKS_PER_STEP, place["num_replicas"])
        return DataLoader(Packs(self.packs), batch_size=None, sampler=list(numbers))


class PackModule(L.LightningDataModule):
    def __init__(self, packs: list):
        super().__init__()
        self.packs = packs

    def train_dataloader(self) -> DataLoader:
        align_batch_progress(self.trainer)
        return Own(self.packs).of(self.trainer)

    def val_dataloader(self) -> list:
        return []


def with_sgd(phase):
    """Updates in proportion to gradients: Adam divides by their size, so rounding of a zero gradient moves a weight."""

    class Plain(type(phase)):
        def configure_optimizers(self):
            groups = [{**group, "lr": 0.5} for group in parameter_groups(self.model, self.rates)]
            return torch.optim.SGD(groups, momentum=0.9)

    phase.__class__ = Plain
    return phase


class Record(L.Callback):
    """Losses and gradient norms of every step, and whole weights at the end."""

    def __init__(self):
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.first: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer, pl_module):
        self.first, self.first_step = whole_weights(pl_module.model), trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > self.first_step + len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            self.norms.append(trainer.callback_metrics["train/grad_norm"].item())

    def on_train_end(self, trainer, pl_module):
        self.weights = whole_weights(pl_module.model)
        self.logged = {name: value.item() for name, value in trainer.callback_metrics.items()}


def whole_weights(model) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    return {name: value.clone() for name, value in whole.items()}


def fit(case: Case, folder: Path, **more: Any) -> tuple[Record, L.Trainer]:
    spec: ModelSpec = torch.load(folder / f"{case.model}.spec", weights_only=False)
    packs = torch.load(folder / "packs", weights_only=False)
    L.seed_everything(7, verbose=False)
    experts = None if case.experts is None else ExpertBalance(**case.experts)
    phase = PHASES[case.phase](spec, rates=Rates(clip_norm=0.5, warmup_steps=0, weight_decay=0.0), experts=experts)
    if not case.adam:
        phase = with_sgd(phase)
    record = Record()
    data = 1
    if case.mesh is not None:
        import os

        world = int(os.environ["WORLD_SIZE"])
        data = MindVLStrategy(**case.mesh).sizes.over(world).data
    trainer = L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1 if case.mesh is None else world,
            "strategy": "auto" if case.mesh is None else MindVLStrategy(**case.mesh),
            "max_steps": STEPS,
            "max_epochs": -1,
            "accumulate_grad_batches": PACKS_PER_STEP // data,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            "limit_val_batches": 0,
            "default_root_dir": folder,
            **case.trainer,
            "callbacks": [record, *more.pop("callbacks", ())],
        }
    )
    trainer.fit(phase, PackModule(packs), **more)
    return record, trainer


def run_case(case: Case, folder: Path) -> None:
    """Fit, and write what it left to FOLDER/<name>.<rank>.result."""
    record, trainer = fit(case, folder)
    result = {"losses": record.losses, "norms": record.norms, "first": record.first, "weights": record.weights}
    torch.save({**result, "logged": record.logged}, folder / f"{case.name}.{trainer.global_rank}.result")
