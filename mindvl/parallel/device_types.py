"""What one device of a kind can do by its data sheet, for plans of machines that are not at hand.

    name      bf16 peak    memory    links within a node    network
    h100      989 TFLOP/s   80 GB    450 GB/s to 8          50 GB/s
    910b      313 TFLOP/s   64 GB    196 GB/s to 8          25 GB/s

Rates are dense ones, and of one direction. A device is what PyTorch counts as one: of a 910C, one of its two dies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

GiB = 1 << 30
USABLE_RATIO = 0.92
"""Share of a device's memory that tensors can have; the rest is the driver's, the collectives' and lost between."""


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

    @property
    def usable_bytes(self) -> float:
        return USABLE_RATIO * self.memory_bytes

    def bytes_per_s(self, span: int) -> float:
        """Rate within a group of ranks of which the first and the last are `span` ranks apart, both counted."""
        return self.link_bytes_per_s if span <= self.node_devices else self.network_bytes_per_s


DEVICE_TYPES = {
    device.name: device
    for device in (
        DeviceType("a100", 312e12, 80e9, 8, 300e9, 25e9, "NVIDIA A100 80GB SXM data sheet; DGX A100, 8 x HDR 200 Gb/s"),
        DeviceType("h100", 989e12, 80e9, 8, 450e9, 50e9, "NVIDIA H100 SXM data sheet; DGX H100, 8 x NDR 400 Gb/s"),
        DeviceType("h200", 989e12, 141e9, 8, 450e9, 50e9, "NVIDIA H200 SXM data sheet; DGX H200, 8 x NDR 400 Gb/s"),
        DeviceType("910b", 313e12, 64e9, 8, 196e9, 25e9, "Huawei Atlas 800T A2: 8 x 910B, 2.5 PFLOP/s, 8 x 200 GE"),
        DeviceType(
            "910c", 376e12, 64e9, 768, 196e9, 25e9, "arXiv 2506.12708, table 1, halved: one die of CloudMatrix384"
        ),
    )
}
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

    source, target = torch.ones(8 << 20), torch.empty(8 << 20)
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        times_s.append(time.perf_counter() - start)
    copied = source.nbytes / min(times_s) / ranks
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks
    flops = matmul_peak(size=1024) / ranks
    return DeviceType(MEASURED, flops, memory, ranks, copied, copied, f"measured on {device_name()}")
