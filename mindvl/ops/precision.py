"""Sums over many terms are taken in fp32 at least, and references do nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 as fp32; fp32 and fp64 as they are, so that a test can take everything in fp64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """A block in which operations on tensors like this one keep the precision they are given."""
    return torch.autocast(tensor.device.type, enabled=False)


def step_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a result shall have: the autocast precision where autocast is on, else that of the tensor."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
