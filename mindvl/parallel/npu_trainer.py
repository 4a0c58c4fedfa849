"""What a Trainer on NPUs must be given, because Lightning would choose for other devices.

    devices 1                      NPUSingleDevice("npu:0"), where Lightning takes a strategy for "cpu"
    devices 8, or several nodes    NPUDataParallel, where Lightning takes DDP for GPUs
    precision bf16-mixed           autocast on "npu", where Lightning names "cuda"

Any other strategy stays; only the precision is filled in.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import Strategy

from mindvl.parallel.npu import Devices, NPUAccelerator, require_npu
from mindvl.parallel.npu_strategy import NPUDataParallel, NPUSingleDevice

_MIXED = {"16": "16-mixed", "bf16": "bf16-mixed", "16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed"}
_DATA_PARALLEL: dict[str, dict[str, bool]] = {
    "ddp": {},
    "ddp_find_unused_parameters_false": {"find_unused_parameters": False},
    "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
}


def precision_plugin(precision: str | int | None, device_type: str) -> Precision | None:
    """Lightning's plugin for "bf16-mixed" and "16-mixed", casting on this type of device.

    None for precisions that cast nothing, in which Lightning makes no mistake: "32-true", "bf16-true", "64-true".
    """
    mixed = _MIXED.get(str(precision))
    return None if mixed is None else MixedPrecision(mixed, device_type)  # type: ignore[arg-type]


def trainer_arguments(
    *,
    devices: Devices = "auto",
    num_nodes: int = 1,
    strategy: str | Strategy = "auto",
    precision: str | int | None = None,
    plugins: Any = None,
) -> dict[str, Any]:
    """`accelerator`, `strategy`, `precision` and `plugins` of a Trainer on NPUs, from the Trainer's own arguments.

    ValueError where there is no NPU, and for devices that are not there.
    """
    require_npu()
    plugins = [] if plugins is None else [*plugins] if isinstance(plugins, list | tuple) else [plugins]
    plugin = precision_plugin(precision, NPUAccelerator.name())
    if plugin is not None:
        plugins, precision = [*plugins, plugin], None
    return {
        "accelerator": NPUAccelerator.name(),
        "strategy": _strategy(strategy, devices, num_nodes),
        "precision": precision,
        "plugins": plugins or None,
    }


def _strategy(strategy: str | Strategy, devices: Devices, num_nodes: int) -> str | Strategy:
    if strategy not in ("auto", *_DATA_PARALLEL):
        return strategy  # made for NPUs, or refused by the accelerator
    numbers = NPUAccelerator.parse_devices(-1 if devices == "auto" else devices)
    if strategy == "auto" and len(numbers) == num_nodes == 1:
        return NPUSingleDevice(device=NPUAccelerator.get_parallel_devices(numbers)[0])
    return NPUDataParallel(**_DATA_PARALLEL.get(str(strategy), {}))
