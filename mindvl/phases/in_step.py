"""Ranks that share out a model answer prompts of their own, and still run every module equally often.

Parameters are gathered around each call of a layer, from all ranks. A rank that has written its last word, or has no
prompts left, must go on calling. Two ranks, one with three batches of prompts and one with two:

    rank 0    batch of 5 words    batch of 9 words    batch of 2 words
    rank 1    batch of 7 words    batch of 4 words    (filler)
    steps     7                   9                   2

Within a batch, transformers' `synced_gpus` makes the shorter rank call the model until the longest is done. Between
batches it is `in_step`, which gives ranks without work empty batches until nobody has any.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn


def must_run_together(model: nn.Module) -> bool:
    """Whether several ranks hold parts of the model's parameters."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def in_step(batches: Iterator[list[int]], device: torch.device) -> Iterator[list[int]]:
    """This rank's batches, then empty ones until no rank has any left; every rank must exhaust it."""
    while True:
        batch = next(batches, None)
        left = torch.tensor(0 if batch is None else 1, device=device)
        dist.all_reduce(left, op=dist.ReduceOp.MAX)
        if not left:
            return
        yield batch or []
