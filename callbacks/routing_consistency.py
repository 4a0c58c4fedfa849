"""How consistently a mixture of experts routes, measured in every validation, in any run whose routing can be recorded.

    RoutingConsistency(
        record=lambda module: RoutingRecorder(module.model),           # a context manager around one validation batch
        metrics=lambda module: {"srp": SegmentRouting(...)},           # torchmetrics, fed with what was recorded
    )

For each validation batch the recorder is entered before the step and left after it; what it recorded is handed to the
metrics and forgotten. So memory does not grow with the validation set, and between validations nothing listens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import AbstractContextManager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import Metric

Results = Mapping[str, Any]
"""Name of a metric -> what its `compute` returned, over all ranks."""


def _recording(recorder: Any) -> Sized:
    return recorder.recording()


class RoutingConsistency(L.Callback):
    """Feeds recorded routing to metrics while validation runs, and logs what they come to.

    The callback never learns what routing is. `record` makes a context manager for a LightningModule; whatever it
    enters is read by `read` when the batch is over, and each metric's `update` gets what was read. States are reduced
    over ranks by the metrics themselves, so every rank must hold the same metrics; a rank without batches takes part.

    Logged at the end of each validation, the same on all ranks:

    | key | unit | meaning |
    |---|---|---|
    | `routing/<metric>` | of the metric | a metric whose result is one number |
    | `routing/<metric>/<name>` | of the metric | each entry that is one number, of a metric whose result is a mapping |
    | `routing/tokens` | tokens | routed tokens in the whole validation; only with `count_tokens` |

    Numbers that do not exist (NaN, as for a segment that no sample is long enough for) are left out. Results with axes,
    such as a value per layer, are for `plots`: its figures go under `routing/<name>` to every logger that shows
    pictures (by `log_image`, as W&B's, or `experiment.add_figure`, as TensorBoard's). Other loggers get none.

    Args:
        record: makes the context manager of one batch, given the LightningModule.
        metrics: torchmetrics by name, or a function that makes them once, given the LightningModule; made on each rank.
        read: what the entered recorder has recorded; a sized collection, left out when empty. By default
            `recorder.recording()`.
        plots: figures by name (matplotlib's, or what the loggers take), given the results of all metrics.
        count_tokens: tokens of what was read.
        max_batches: batches that are recorded on each rank; all when left out.

    Raises ValueError when `metrics` is empty, or `max_batches` is below 1.
    """

    def __init__(
        self,
        record: Callable[[L.LightningModule], AbstractContextManager[Any]],
        metrics: Mapping[str, Metric] | Callable[[L.LightningModule], Mapping[str, Metric]],
        *,
        read: Callable[[Any], Sized] = _recording,
        plots: Callable[[Results], Mapping[str, Any]] | None = None,
        count_tokens: Callable[[Any], int] | None = None,
        max_batches: int | None = None,
    ):
        if max_batches is not None and max_batches < 1:
            raise ValueError(f"max_batches is {max_batches}; at least 1 batch is needed to measure anything")
        if isinstance(metrics, Mapping) and not metrics:
            raise ValueError("metrics is empty; there is nothing to measure")
        self.record, self.read, self.plots = record, read, plots
        self.count_tokens, self.max_batches = count_tokens, max_batches
        self._given = metrics
        self._metrics: dict[str, Metric] = {}
        self._open: tuple[AbstractContextManager[Any], Any] | None = None
        self._seen = self._tokens = 0

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if not self._metrics:
            self._metrics = dict(self._given if isinstance(self._given, Mapping) else self._given(pl_module))
            if not self._metrics:
                raise ValueError("`metrics` made none; there is nothing to measure")
        for metric in self._metrics.values():
            metric.to(pl_module.device)
            metric.reset()
        self._seen = self._tokens = 0

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or (self.max_batches is not None and self._seen >= self.max_batches):
            return
        context = self.record(pl_module)
        self._open = (context, context.__enter__())

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._open is None:
            return
        recorder = self._leave()
        self._seen += 1
        recorded = self.read(recorder)
        if not len(recorded):
            return
        for metric in self._metrics.values():
            metric.update(recorded)
        if self.count_tokens is not None:
            self._tokens += int(self.count_tokens(recorded))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A failed step leaves nothing behind that listens."""
        if self._open is not None:
            context, self._open = self._open[0], None
            context.__exit__(type(exception), exception, exception.__traceback__)

    def _leave(self) -> Any:
        assert self._open is not None
        (context, recorder), self._open = self._open, None
        context.__exit__(None, None, None)
        return recorder

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        results = {name: _compute(metric) for name, metric in self._metrics.items()}
        logged = dict(_numbers(results))
        if self.count_tokens is not None:
            tokens = torch.tensor(self._tokens, device=pl_module.device)
            logged["routing/tokens"] = float(trainer.strategy.reduce(tokens, reduce_op="sum"))
        # All ranks have the same numbers; a mean over them is a formality that Lightning asks for.
        pl_module.log_dict(logged, sync_dist=True)
        if self.plots is not None and trainer.is_global_zero:
            _show(trainer, self.plots(results))


def _compute(metric: Metric) -> Any:
    """The result over all ranks. A rank without a batch adds nothing, which is no reason for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
        return metric.compute()


def _numbers(results: Results) -> Iterable[tuple[str, float]]:
    """(key, value) of all results that are one finite number."""
    for name, result in results.items():
        entries = result.items() if isinstance(result, Mapping) else [(None, result)]
        for entry, value in entries:
            if isinstance(value, Tensor) and value.numel() != 1:
                continue
            if isinstance(value, Tensor | int | float) and torch.isfinite(torch.as_tensor(value)).item():
                yield (f"routing/{name}" if entry is None else f"routing/{name}/{entry}"), float(value)


def _show(trainer: L.Trainer, figures: Mapping[str, Any]) -> None:
    for logger in trainer.loggers:
        for name, figure in figures.items():
            if hasattr(logger, "log_image"):
                logger.log_image(f"routing/{name}", [figure], step=trainer.global_step)
            elif hasattr(getattr(logger, "experiment", None), "add_figure"):
                logger.experiment.add_figure(f"routing/{name}", figure, trainer.global_step)
