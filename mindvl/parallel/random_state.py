"""Random numbers go on where a checkpoint left them: the device's, torch's, numpy's and Python's, on every rank.

Lightning keeps none of them in a checkpoint, and only those of GPUs out of the sanity check. A model with dropout that
was killed at step 100 would draw the masks of step 1 again.
"""

from __future__ import annotations

import logging
import random
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.distributed as dist

from mindvl.device import rng_state, set_rng_state

log = logging.getLogger(__name__)


def random_state(device: torch.device | str) -> dict[str, Any]:
    """Where this process's random numbers stand, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = cast(tuple, np.random.get_state())
    return {
        "device": (torch.device(device).type, rng_state(device)),
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(device: torch.device | str, state: dict[str, Any]) -> None:
    """Go on from what `random_state` returned; numbers of another type of device do not become this one's."""
    torch.set_rng_state(state["torch"].cpu())
    device_type, on_device = state["device"]
    if device_type == torch.device(device).type:
        set_rng_state(device, on_device.cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


class KeepRandomState(L.Callback):
    """Saves the random state of every rank with each checkpoint, and goes on from it before the first step.

    A checkpoint of another number of ranks, or without random state, leaves the numbers as the seed made them. The
    sanity check draws nothing from the run's numbers.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        own = random_state(trainer.strategy.root_device)
        states: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(states, own)
        checkpoint["random_state"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("random_state", [])
        if len(states) == trainer.world_size:
            self._saved = states[trainer.global_rank]
        elif states:
            log.warning(
                f"random numbers start from the seed: the checkpoint has those of {len(states)} ranks, the run has "
                f"{trainer.world_size}"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not earlier: making the loaders draws seeds, which the interrupted run had drawn before its checkpoint.
        if self._saved is not None:
            set_random_state(trainer.strategy.root_device, self._saved)
            self._saved = None

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before_check = rng_state(trainer.strategy.root_device)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        set_rng_state(trainer.strategy.root_device, self._before_check)
