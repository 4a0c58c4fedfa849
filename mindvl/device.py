"""The device: the only file that knows what hardware is called.

It answers three questions: how fast can this machine multiply matrices (the yardstick of model-FLOPs utilisation),
which precision pays here, and, on a CPU, how to keep the allocator from handing memory back between steps.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import torch

Precision = str
"""One of Lightning's precision names."""
KINDS = ("cpu", "cuda", "npu")
"""Device types that operators have entries for."""


def device_of(accelerator: str) -> str:
    """The device type that Lightning's accelerator name stands for; "auto" is the one that is there."""
    if accelerator == "auto":
        current = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if current is None else current.type
    return {"gpu": "cuda"}.get(accelerator, accelerator)


def device_name(device: torch.device | str = "cpu") -> str:
    """A name for tables: the accelerator's product name, or the processor's with the threads in use."""
    device = torch.device(device)
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads"
    product_name = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if product_name is None else product_name(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether bf16 matrix products run on units of their own: any accelerator here, or a CPU with AMX tiles."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported()
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return supported is not None and supported()


def best_precision(device: torch.device | str = "cpu") -> Precision:
    """Lightning's precision name that pays on this device: "bf16-mixed" or "32-true"."""
    return "bf16-mixed" if has_fast_bf16(device) else "32-true"


def widest_float(device: torch.device | str) -> torch.dtype:
    """The dtype that sums of losses are kept in: fp64 where the device has it."""
    return torch.float64 if torch.device(device).type in ("cpu", "cuda") else torch.float32


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def memory_bytes(device: torch.device | str) -> dict[str, int]:
    """Bytes of an accelerator's memory: `allocated` to tensors, `reserved` by the allocator, `peak` of the allocated.

    Empty for a CPU, whose memory belongs to the whole process.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return {}
    module = torch.get_device_module(device)
    return {
        "allocated": module.memory_allocated(device),
        "reserved": module.memory_reserved(device),
        "peak": module.max_memory_allocated(device),
    }


def rng_state(device: torch.device | str) -> torch.Tensor:
    """Bytes that say where the device's random numbers stand."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.get_rng_state()
    module = torch.get_device_module(device)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)  # there is one mps alone


def set_rng_state(device: torch.device | str, state: torch.Tensor) -> None:
    """Let the device's random numbers go on from `state`, which lies in the host's memory."""
    device = torch.device(device)
    if device.type == "cpu":
        torch.set_rng_state(state)
    elif device.type == "mps":
        torch.get_device_module(device).set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


@lru_cache(maxsize=8)
def matmul_peak(dtype: torch.dtype = torch.float32, device: str = "cpu", *, size: int = 2048) -> float:
    """FLOP/s of the best of several size x size matrix products on this device, measured now.

    On a CPU that is the better of MKL's and oneDNN's: on processors of other makers MKL leaves half of it unused.
    """
    if device != "cpu":
        size *= 4
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: left @ right]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    best_s = float("inf")
    for product in products * 6:
        synchronize(device)
        start = time.perf_counter()
        product()
        synchronize(device)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * size**3 / best_s


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step; returns whether it could.

    A CPU training step frees hundreds of megabytes of activations and asks for them again. By default glibc returns
    them to the system, which clears every page anew: 12,000 page faults a step for a model of 1.3 M parameters.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of glibc's malloc.h
    settings = {mmap_threshold: 32 << 20, trim_threshold: 1 << 30, top_pad: 64 << 20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
