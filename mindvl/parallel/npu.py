"""Ascend NPUs as an accelerator of Lightning: `Trainer(accelerator="npu", ...)` once this module is imported.

Lightning knows the devices it ships with. Of any other it takes, without a word, one device for
`SingleDeviceStrategy("cpu")` and mixed precision for autocast on GPUs, so that a run on "npu" computes on the CPU in
fp32. `trainer_arguments` fills in what Lightning would get wrong; a Trainer without it is stopped before its first step
by a sentence that says what to pass.

    from mindvl.parallel.npu_trainer import trainer_arguments
    Trainer(devices=8, **trainer_arguments(devices=8, precision="bf16-mixed"))

On a machine without NPUs, `NPUAccelerator()` raises a ValueError that says what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.parameter_tying import find_shared_parameters

from mindvl.device import memory_bytes
from mindvl.parallel.npu_missing import NO_DEVICE, missing_npu

Devices = int | str | Sequence[int]
"""Lightning's `devices`: how many ("auto" or -1: all), or which ("0,2" or [0, 2])."""

_ADVICE = "give the Trainer what mindvl.parallel.npu_trainer.trainer_arguments returns"


def require_npu() -> None:
    """Load torch_npu; ValueError in one sentence where it, CANN or a device is missing."""
    if not hasattr(torch, "npu"):
        try:
            import torch_npu  # noqa: F401
        except (ImportError, OSError) as error:
            raise ValueError(missing_npu(error)) from error
    if torch.npu.device_count() == 0:
        raise ValueError(NO_DEVICE)


def process_group_backend() -> str:
    """hccl for tensors on NPUs, gloo for those of the host; ValueError when nobody has registered hccl."""
    known = torch.distributed.Backend.backend_list
    if "hccl" not in known:
        raise ValueError(
            "NPUs exchange tensors through hccl, which torch_npu registers, and this process knows "
            f"{', '.join(known)} alone: is this torch_npu built for torch {torch.__version__}?"
        )
    return "cpu:gloo,npu:hccl"


class NPUAccelerator(Accelerator):
    """Lightning's accelerator "npu"."""

    def __init__(self) -> None:
        require_npu()

    def setup_device(self, device: torch.device) -> None:
        """Make the strategy's device the current one; ValueError if it is no NPU."""
        if device.type != "npu":
            raise ValueError(f"accelerator npu, but the strategy would compute on {device}: {_ADVICE}")
        torch.npu.set_device(device)

    def setup(self, trainer: L.Trainer) -> None:
        """Before anything is computed, refuse what Lightning would do wrongly without a word."""
        strategy, plugin = trainer.strategy, trainer.strategy.precision_plugin
        stock = f"accelerator npu, but Lightning's {type(strategy).__name__}"
        if isinstance(plugin, MixedPrecision) and plugin.device != "npu":
            raise ValueError(
                f"accelerator npu, but precision {plugin.precision} casts on {plugin.device} alone, so that all would "
                f"be computed in fp32: {_ADVICE}"
            )
        if isinstance(strategy, DDPStrategy) and strategy.determine_ddp_device_ids() is not None:
            raise ValueError(f"{stock} wraps models in a stream of GPUs: {_ADVICE}")
        if type(strategy) is SingleDeviceStrategy and (tied := find_shared_parameters(trainer.lightning_module)):
            raise ValueError(f"{stock} would untie {' and '.join(tied[0])} by moving them: {_ADVICE}")
        if trainer.world_size > 1:
            process_group_backend()

    def teardown(self) -> None:
        torch.npu.empty_cache()

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        """`memory_allocated_bytes`, `memory_reserved_bytes`, `memory_peak_bytes` and `utilization_percent`.

        Peak is of the allocated memory since the process began; utilisation is there where torch_npu tells it.
        """
        device = torch.device("npu", device) if isinstance(device, int) else torch.device(device)
        stats: dict[str, Any] = {f"memory_{name}_bytes": number for name, number in memory_bytes(device).items()}
        utilization = getattr(torch.npu, "utilization", None)
        return stats if utilization is None else {**stats, "utilization_percent": utilization(device)}

    @staticmethod
    def parse_devices(devices: Devices) -> list[int]:
        """Numbers of the devices to use; ValueError for one that is not there."""
        there = NPUAccelerator.auto_device_count()
        if isinstance(devices, str):
            devices = [int(part) for part in devices.split(",") if part.strip()] if "," in devices else int(devices)
        if isinstance(devices, int):
            devices = range(there if devices == -1 else devices)
        beyond = [number for number in devices if not 0 <= number < there]
        if beyond or len(set(devices)) < len(devices) or not devices:
            visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
            hint = "" if visible is None else f" (ASCEND_RT_VISIBLE_DEVICES={visible})"
            raise ValueError(f"trainer.devices asks for NPUs {list(devices)}, but there are {there}{hint}, from 0 on")
        return list(devices)

    @staticmethod
    def get_parallel_devices(devices: Sequence[int]) -> list[torch.device]:
        return [torch.device("npu", number) for number in devices]

    @staticmethod
    def auto_device_count() -> int:
        return torch.npu.device_count() if hasattr(torch, "npu") else 0

    @staticmethod
    def is_available() -> bool:
        """Whether a loaded torch_npu sees a device; loads nothing and never raises."""
        return NPUAccelerator.auto_device_count() > 0

    @staticmethod
    def name() -> str:
        return "npu"


AcceleratorRegistry.register(NPUAccelerator.name(), NPUAccelerator, description="Ascend NPUs, through torch_npu")
