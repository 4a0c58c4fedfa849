"""Strategies for NPUs: one device, and data parallelism, without what Lightning and torch do wrongly there.

    SingleDeviceStrategy()     moves the model to "cpu"             NPUSingleDevice moves it to an NPU
    DDPStrategy()              wraps the model in a GPU stream      NPUDataParallel does not, and talks over hccl
    module.to("npu")           unties tied weights                  both tie them again

The last is torch's: a parameter becomes another object where its old and new device have different kinds of tensors, as
CPU and NPU do (CPU and GPU do not), and two modules that shared it then have one each. An embedding and its language
head would drift apart, with half of the gradient each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.parameter_tying import find_shared_parameters, set_shared_parameters
from torch import nn

from mindvl.parallel.npu import process_group_backend


@contextmanager
def keeping_ties(module: nn.Module) -> Iterator[None]:
    """What modules share before a move they share after it; where they still do, nothing changes."""
    ties = find_shared_parameters(module)
    try:
        yield
    finally:
        set_shared_parameters(module, ties)


class _KeepsTies(Strategy):
    """Moves of the whole model, to the device and back after the run."""

    def model_to_device(self) -> None:
        assert self.model is not None
        with keeping_ties(self.model):
            super().model_to_device()

    def teardown(self) -> None:
        with nullcontext() if self.lightning_module is None else keeping_ties(self.lightning_module):
            super().teardown()


class NPUSingleDevice(_KeepsTies, SingleDeviceStrategy):
    """One NPU, the first unless named."""

    def __init__(self, device: torch.device | str = "npu:0", **settings: Any):
        super().__init__(device=device, **settings)


class NPUDataParallel(_KeepsTies, DDPStrategy):
    """Lightning's DDP for NPUs; takes its settings."""

    def __init__(self, **settings: Any):
        super().__init__(**{"process_group_backend": process_group_backend(), **settings})

    def determine_ddp_device_ids(self) -> None:
        """None: with device numbers, Lightning wraps the model in a stream of torch's GPU module."""
        return None
