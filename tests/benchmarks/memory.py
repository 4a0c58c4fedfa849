"""Memory of this process, as the kernel tells it.

Not by getrusage: its peak is that of the process which has started this one, where that was larger.
"""

from __future__ import annotations

import re
from pathlib import Path


def resident_bytes() -> int:
    """Now."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """At the most since the process began, or since `forget_peak`."""
    return _status_bytes("VmHWM")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"the kernel does not tell {field}"
    return int(found[1]) * 1024
