"""Progress of a run that counts optimizer steps, not epochs: a bar in a terminal, a line now and then elsewhere.

A log of SLURM or nohup cannot be drawn over, so there every `log_every_n_steps` steps one line is added:

    step 40/260  loss 2.726  tokens/s 13981  MFU 23.6%  fill 99.8%  left 0:00:12
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT

_SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "throughput/tokens_per_s": ("tokens/s", "{:.0f}"),
    "throughput/model_flops_ratio": ("MFU", "{:.1%}"),
    "train/pack_fill_ratio": ("fill", "{:.1%}"),
}


def progress_of_steps() -> ProgressBar:
    """The bar where stdout is a terminal, lines where it is not."""
    return StepProgressBar() if sys.stdout.isatty() else StepLines()


def _numbers(trainer: L.Trainer) -> dict[str, str]:
    logged = trainer.callback_metrics
    return {name: shown.format(float(logged[key])) for key, (name, shown) in _SHOWN.items() if key in logged}


class StepProgressBar(RichProgressBar):
    """Steps done of all steps, time spent and left, loss, tokens per second, utilisation and pack fill.

    Both counts are optimizer steps since the run's very beginning. Lightning's own total leaves out what was done
    before a resume while its count does not, and it holds steps against accumulated batches.
    """

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=5)

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.estimated_stepping_batches

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx=trainer.global_step - 1)

    def _get_train_description(self, current_epoch: int) -> str:
        return type(self.trainer.lightning_module).__name__

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        return _numbers(trainer)


class StepLines(ProgressBar):
    """The same numbers as lines on stdout, from the first rank, every `log_every_n_steps` steps and after the last.

    The time left is reckoned from this process's own steps but its first, which also compiles and opens files.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._step = 0  # of the last batch; accumulated batches share one
        self._since: tuple[int, float] | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step, self._since = trainer.global_step, None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        step, every, total = trainer.global_step, trainer.log_every_n_steps, trainer.estimated_stepping_batches
        if not self._enabled or not every or step == self._step:
            return
        self._step = step
        if self._since is None:
            self._since = step, time.monotonic()
        if step % every and step != total:
            return
        words = [f"step {step}/{total}", *(f"{name} {number}" for name, number in _numbers(trainer).items())]
        done = step - self._since[0]
        if done and total != float("inf"):
            left_s = (time.monotonic() - self._since[1]) / done * (total - step)
            words.append(f"left {timedelta(seconds=round(left_s))}")
        print("  ".join(words), flush=True)
