"""Precision of sharded models: FSDP2 casts what it gathers, and nothing runs under autocast.

    32-true      slices, arithmetic and reductions in fp32
    bf16-mixed   slices in fp32, gathered and computed in bf16, gradients reduced and kept in fp32
    bf16-true    slices in bf16; gradients are reduced in fp32 and kept in bf16

Buffers keep their precision, and routers compute in fp32 (`Units.exact`).
"""

from __future__ import annotations

import torch
from lightning.pytorch.plugins import Precision

_COMPUTE = {"32-true": None, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


class ShardedPrecision(Precision):
    """Takes the place of Lightning's plugin of the same name, whatever device that one would cast on.

    Raises ValueError for a precision that is not in the table above.
    """

    def __init__(self, precision: str):
        if precision not in _COMPUTE:
            raise ValueError(f"trainer.precision is {precision}; MindVLStrategy knows {', '.join(_COMPUTE)}")
        self.precision = precision  # type: ignore[assignment]

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Of gathered parameters; None is that of the slices."""
        return _COMPUTE[self.precision]

    @property
    def slice_dtype(self) -> torch.dtype | None:
        """Of what a rank keeps; None leaves parameters as they are."""
        return torch.bfloat16 if self.precision == "bf16-true" else None
