"""The progress bar of a run that counts steps, not epochs."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

_SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "throughput/tokens_per_s": ("tokens/s", "{:.0f}"),
    "throughput/model_flops_ratio": ("MFU", "{:.1%}"),
    "train/pack_fill_ratio": ("fill", "{:.1%}"),
}


class StepProgressBar(RichProgressBar):
    """Steps done of all steps, time spent and left, loss, tokens per second, utilisation and pack fill."""

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=5)

    def _get_train_description(self, current_epoch: int) -> str:
        return type(self.trainer.lightning_module).__name__

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        logged = trainer.callback_metrics
        return {name: shown.format(float(logged[key])) for key, (name, shown) in _SHOWN.items() if key in logged}
