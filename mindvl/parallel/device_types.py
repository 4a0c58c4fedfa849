"""What one device of a kind can do by its data sheet, for plans of machines that are not at hand.

    name     bf16 peak       memory       links within a node     network
    h100     989 TFLOP/s     79.1 GiB     450 GB/s to 8           50 GB/s
    910b     313 TFLOP/s     60.9 GiB     196 GB/s to 8           25 GB/s

Rates are dense ones, and of one direction. Memory is what PyTorch calls a device's total capacity: less than the data
sheet's, by what the driver and error correction take. A device is what PyTorch counts as one: of a 910C, one of its two
dies. There are several 910B: `910b` is the B3, with 20 cores for matrix products, `910b2` the B2, with 24; the B4, with
half the memory, is not here, since its peak is not published.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

GiB = 1 << 30
USABLE_RATIO = 0.92
"""Share of a device's memory that tensors can have; the rest is for contexts, collectives, and lost between tensors."""


@dataclass(frozen=True)
class DeviceType:
    """Peaks of one device and of what joins it to others."""

    name: str
    flops: float
    """Dense bf16 FLOP/s."""
    memory_bytes: float
    node_devices: int
    """Devices that the fast links join."""
    link_bytes_per_s: float
    """To the devices of the same node together, one direction."""
    network_bytes_per_s: float
    """To other nodes, one direction."""
    source: str
    memory_source: str
    """Who has seen that much."""

    @property
    def usable_bytes(self) -> float:
        return USABLE_RATIO * self.memory_bytes


DEVICE_TYPES = {
    device.name: device
    for device in (
        DeviceType(
            "a100", 312e12, 79.1 * GiB, 8, 300e9, 25e9,
            "NVIDIA A100 80GB SXM data sheet; DGX A100, 8 x HDR 200 Gb/s",
            "an out-of-memory message, vllm-project/vllm issue 4408",
        ),
        DeviceType(
            "h100", 989e12, 79.1 * GiB, 8, 450e9, 50e9,
            "NVIDIA H100 SXM data sheet; DGX H100, 8 x NDR 400 Gb/s",
            "an out-of-memory message, vllm-project/vllm issue 27508",
        ),
        DeviceType(
            "h200", 989e12, 139.7 * GiB, 8, 450e9, 50e9,
            "NVIDIA H200 SXM data sheet; DGX H200, 8 x NDR 400 Gb/s",
            "nvidia-smi's list of instances, NVIDIA/mig-parted issue 120",
        ),
        DeviceType(
            "910b", 313e12, 60.9 * GiB, 8, 196e9, 25e9,
            "910B3: Huawei Atlas 800T A2, 2.5 PFLOP/s for 8, 8 x 200 GE; that these are B3 is known at second hand",
            "an out-of-memory message, zai-org/CogVideo issue 63",
        ),
        DeviceType(
            "910b2", 376e12, 60.9 * GiB, 8, 196e9, 25e9,
            "910B2: peak known at second hand, 315 TFLOP/s were measured; links and network as of 910b",
            "an out-of-memory message, vllm-project/vllm-ascend issue 1127",
        ),
        DeviceType(
            "910c", 376e12, 61.2 * GiB, 768, 196e9, 25e9,
            "arXiv 2506.12708, table 1, halved: one die of CloudMatrix384",
            "an out-of-memory message, sgl-project/sglang issue 29838",
        ),
    )
}  # fmt: skip
MEASURED = "cpu"


def device_type(name: str, *, ranks: int) -> DeviceType:
    """A device of the table, or "cpu": this machine, measured now and shared by all `ranks`. ValueError if unknown."""
    if name == MEASURED:
        return _this_machine(ranks)
    if name not in DEVICE_TYPES:
        raise ValueError(f"there is no device type {name}; known are {', '.join([*DEVICE_TYPES, MEASURED])}")
    return DEVICE_TYPES[name]


def _this_machine(ranks: int) -> DeviceType:
    """Its processor's matrix products in fp32 and its copies within memory, each rank having its share."""
    import time

    import torch

    from mindvl.device import device_name, matmul_peak

    here, there = torch.ones(8 << 20), torch.empty(8 << 20)
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        there.copy_(here)
        times_s.append(time.perf_counter() - start)
    copied = here.nbytes / min(times_s) / ranks
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks
    flops = matmul_peak(size=1024) / ranks
    source = f"measured on {device_name()}"
    return DeviceType(MEASURED, flops, memory, ranks, copied, copied, source, "the system, shared by the ranks")
