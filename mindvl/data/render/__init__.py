"""Synthetic pictures with exact ground truth: text, forms, tables, charts, shapes and sums, drawn by the thousand.

`render` writes WebDataset shards; it is loaded when first asked for, so that `mindvl --help` stays quick.
"""

from typing import Any

__all__ = ["render"]


def __getattr__(name: str) -> Any:
    if name == "render":
        from mindvl.data.render.writer import render

        return render
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
