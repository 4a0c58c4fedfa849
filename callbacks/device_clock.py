"""Times of work that a device does on its own: read from the device's clock where it has one, else from the host's.

An accelerator's kernels run long after the host has queued them. A host's clock around a forward pass reads perhaps
3 ms for 200 ms of work; two events in the device's queue read the 200 ms, and nobody waits until they are read.
"""

from __future__ import annotations

import time
from typing import Any

import torch


def mark(device: torch.device) -> Any:
    """This point in the device's work: an event in its current stream, or the host's time in seconds."""
    backend = None if device.type == "cpu" else getattr(torch, device.type, None)
    make_event = getattr(backend, "Event", None)
    if make_event is None:
        return time.perf_counter()
    event = make_event(enable_timing=True)
    event.record()
    return event


def elapsed_s(start: Any, end: Any) -> float:
    """Seconds between two marks of one device; waits until its work has come to the second."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000
