"""Tokens per second and model-FLOPs utilisation of any Lightning run whose batches can be counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import STEP_OUTPUT

from .ranks import data_place


class TokenThroughput(L.Callback):
    """Measures the time between optimizer steps and what was done in it.

    The callback never learns what a batch is: `count` reads the numbers of a batch, `flops` the operations that the
    model needs for it. Times include waiting for data, since that is what a run costs; the wait is logged apart.

    Logged every `trainer.log_every_n_steps` optimizer steps, over the steps since the last time:

    | key | unit | meaning |
    |---|---|---|
    | `throughput/<name>_per_s` | 1/s | each of the numbers that `count` returns, summed over all batches of the ranks |
    | `throughput/step_s` | s | mean time of an optimizer step |
    | `throughput/data_wait_ratio` | - | share of the time spent waiting for the next batch |
    | `throughput/model_flops_ratio` | - | model FLOPs per second over `peak_flops` (MFU); only with `flops` |

    Args:
        count: numbers of a batch by name, such as ``{"tokens": 4096, "supervised_tokens": 512}``.
        flops: FLOPs of one forward and backward pass over a batch, given the LightningModule and the batch.
        peak_flops: FLOP/s that the device reaches at best, or a function of the trainer that measures it once.

    Example::

        TokenThroughput(count=lambda batch: {"tokens": batch["input_ids"].numel()})
    """

    def __init__(
        self,
        count: Callable[[Any], Mapping[str, float]],
        *,
        flops: Callable[[L.LightningModule, Any], float] | None = None,
        peak_flops: float | Callable[[L.Trainer], float] | None = None,
    ):
        if (flops is None) != (peak_flops is None):
            raise ValueError("give both `flops` and `peak_flops`, or neither")
        self.count, self.flops, self.peak_flops = count, flops, peak_flops
        self._peak: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.peak_flops is not None and self._peak is None:
            self._peak = self.peak_flops(trainer) if callable(self.peak_flops) else self.peak_flops
        self._logged_step = trainer.global_step
        self._clear(time.perf_counter())

    def _clear(self, now: float) -> None:
        self._start, self._batch_end, self._waited_s = now, now, 0.0
        self._totals: dict[str, float] = {}
        self._flops = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            away = time.perf_counter() - self._paused
            self._start += away
            self._batch_end += away

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited_s += time.perf_counter() - self._batch_end

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        for name, value in self.count(batch).items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value)
        if self.flops is not None:
            self._flops += self.flops(pl_module, batch)
        now = self._batch_end = time.perf_counter()
        steps = trainer.global_step - self._logged_step
        if steps < trainer.log_every_n_steps:
            return
        elapsed_s = now - self._start
        _, shares = data_place(trainer.strategy)
        rates = {f"throughput/{name}_per_s": shares * total / elapsed_s for name, total in self._totals.items()}
        rates["throughput/step_s"] = elapsed_s / steps
        rates["throughput/data_wait_ratio"] = self._waited_s / elapsed_s
        if self._peak is not None:
            own = self._flops * shares / trainer.world_size  # ranks that read the same batch split its work
            rates["throughput/model_flops_ratio"] = own / elapsed_s / self._peak
        pl_module.log_dict(rates, rank_zero_only=True)
        self._logged_step = trainer.global_step
        self._clear(now)
