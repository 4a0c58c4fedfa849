"""Noise of libraries that says nothing about the user's run, silenced in one place."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_lightning() -> None:
    """Silence advertisements and remarks that do not apply to a loader of whole packs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    for message in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",  # ours is: the plan and one number are its state
        ".*Total length of `list` across ranks is zero.*",  # a fit without validation sources
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*LightningCLI's args parameter.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # `validate --ckpt_path` saves none
        ".*There is a wandb run already in progress.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_not_an_advertisement)


def quiet_transformers() -> None:
    """Silence the progress bars of small weight files."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _not_an_advertisement(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(
        word in message for word in ("litlogger", "litmodels", "TPU available", "GPU available", "HPU avail")
    )
