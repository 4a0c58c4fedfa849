"""Where a run's numbers go when its config does not say: a CSV file, and W&B, which never stands in the way."""

from __future__ import annotations

import csv
import logging
import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

log = logging.getLogger(__name__)


def has_wandb_key() -> bool:
    """Whether a W&B key is at hand, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def default_loggers(root: Path, *, name: str, first_step: int = 0) -> list[Logger]:
    """CSV under ROOT/csv; W&B offline under ROOT/wandb without a key. A W&B that does not start is left out."""
    loggers: list[Logger] = [_csv_logger(root, first_step)]
    try:
        offline = not has_wandb_key()
        wandb = WandbLogger(
            project=os.environ.get("WANDB_PROJECT", "mindvl"), name=name, save_dir=root, offline=offline
        )
        wandb.experiment  # noqa: B018 starts the run now, where a failure can be caught
        loggers.append(wandb)
    except Exception as error:
        log.warning("W&B did not start (%s); numbers go to %s/csv alone", error, root)
    return loggers


def _csv_logger(root: Path, first_step: int) -> CSVLogger:
    """Lightning deletes the rows of an interrupted run; those before the step that it is continued from are kept."""
    file = root / "csv" / "metrics.csv"
    rows: list[dict] = []
    if first_step and file.is_file():
        with file.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if int(row["step"]) < first_step]
    logger = CSVLogger(root, name="", version="csv")
    if rows:
        logger.experiment.metrics.extend(rows)
        logger.experiment.save()
    return logger
