"""Where a run's numbers go when its config does not say: a CSV file, and W&B, which never stands in the way.

A run that is killed and goes on is one run of W&B: its id lies in ROOT/wandb-run-id, with the number of its last part.
Without a key each part is a folder of its own, ROOT/wandb/offline-run-<when>-<id>, and one `wandb sync` of all of them,
`wandb sync ROOT/wandb/offline-run-*`, joins them in order (wandb 0.30 and newer).
"""

from __future__ import annotations

import csv
import logging
import netrc
import os
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

ROWS_PER_PART = 10_000_000
"""Offline, W&B numbers the rows of every part from 0. Joined, they must differ; a gap in the numbers harms nobody."""


def has_wandb_key() -> bool:
    """Whether a W&B key is at hand, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def default_loggers(root: Path, *, name: str) -> list[Logger]:
    """CSV under ROOT/csv, and a new run of W&B that begins now."""
    wandb = wandb_logger(root, name=name)
    return [csv_logger(root), *([wandb] if wandb else [])]


class WandbRun(L.Callback):
    """Begins or continues the W&B run of a fit when training does: a command that is refused, or has nothing left to
    train, leaves none behind.

    Args:
        root: folder of the run.
        name: what W&B calls it.
        goes_on: the fit continues from a checkpoint, and so does the W&B run whose id lies in the folder.
    """

    def __init__(self, root: Path, *, name: str, goes_on: bool):
        self.name, self.root, self.goes_on = name, root, goes_on

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        kept = self.root / "wandb-run-id"
        run_id, part = None, 0
        if self.goes_on and kept.is_file():
            run_id, last = kept.read_text().split()
            part = int(last) + 1
        logger = wandb_logger(self.root, name=self.name, run_id=run_id)
        if logger is None:
            return
        if trainer.is_global_zero:
            run = logger.experiment
            self.root.mkdir(parents=True, exist_ok=True)
            kept.write_text(f"{run.id} {part}\n")
            if part and run.offline:
                run.log({"trainer/global_step": trainer.global_step}, step=part * ROWS_PER_PART, commit=False)
        if pl_module.hparams:
            logger.log_hyperparams(pl_module.hparams_initial)
        trainer.loggers = [*trainer.loggers, logger]


def wandb_logger(root: Path, *, name: str, run_id: str | None = None) -> WandbLogger | None:
    """W&B under ROOT/wandb, offline without a key, in a new run or the one of that id. None if it does not start."""
    try:
        logger = WandbLogger(
            project=os.environ.get("WANDB_PROJECT", "mindvl"),
            name=name,
            save_dir=root,
            offline=not has_wandb_key(),
            id=run_id,
            resume="allow",
        )
        logger._wandb_init.pop("anonymous", None)  # Lightning always passes it; W&B warns of anybody who does
        logger.experiment  # noqa: B018 starts the run now, where a failure can be caught
    except Exception as error:
        log.warning("W&B did not start (%s); numbers go to %s/csv alone", error, root)
        return None
    return logger


def csv_logger(root: Path, *, first_step: int = 0) -> CSVLogger:
    """CSV under ROOT/csv. Lightning deletes the rows of an interrupted run; those before the step that it is continued
    from are kept.

    Only the first rank has a file to put them into.
    """
    file = root / "csv" / "metrics.csv"
    rows: list[dict] = []
    if first_step and rank_zero_only.rank == 0 and file.is_file():
        with file.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if int(row["step"]) < first_step]
    logger = CSVLogger(root, name="", version="csv")
    if rows:
        logger.experiment.metrics.extend(rows)
        logger.experiment.save()
    return logger
