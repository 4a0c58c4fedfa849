"""One gradient norm, however parameters are cut.

Each rank squares the slices that it holds. A slice that several ranks hold alike counts on each of them for its share,
so that one sum over all ranks counts every element once. Of four ranks, shard 2 x tensor 2:

    parameter                         a slice lies on    each rank counts
    q_proj, cut over shard, tensor    1 rank             all of its squares
    norm, cut over shard              2 ranks            half of them
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mindvl.device import widest_float


def local_slices(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this rank holds of each tensor; changed in place, it changes the tensor."""
    from torch.distributed.tensor import DTensor

    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, the same on every rank; they may lie on different meshes."""
    from torch.distributed.tensor import DTensor

    local = local_slices(gradients)
    dtype = widest_float(local[0].device)
    squares = torch.stack(torch._foreach_norm(local)).to(dtype).square()
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return squares.sum().sqrt()
    world = dist.get_world_size()
    shares = [_num_slices(gradient) / world for gradient in gradients]
    total = squares @ torch.tensor(shares, dtype=dtype, device=squares.device)
    dist.all_reduce(total)
    return total.sqrt()


def _num_slices(gradient: Tensor) -> int:
    """Into how many different slices a gradient is cut."""
    if not hasattr(gradient, "placements"):
        return 1
    cuts = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
    return math.prod(size for size, placement in cuts if not placement.is_replicate())


def clip_(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients of this norm down to the limit, in place; smaller ones stay."""
    factor = (limit / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].dtype)
    torch._foreach_mul_(local_slices(gradients), factor)
