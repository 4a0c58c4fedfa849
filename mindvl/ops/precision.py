"""Sums over many terms are taken in fp32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 as fp32; fp32 and fp64 as they are, so that a test can take everything in fp64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
