"""How a run spreads over devices: the accelerators that Lightning lacks, and the mesh of ranks."""

from __future__ import annotations

from typing import Any

__all__ = ["MindVLStrategy"]


def __getattr__(name: str) -> Any:
    """`MindVLStrategy` on first use: it brings Lightning and torch's distributed packages."""
    if name == "MindVLStrategy":
        from mindvl.parallel.strategy import MindVLStrategy

        return MindVLStrategy
    raise AttributeError(f"module {__name__} has no attribute {name}")
