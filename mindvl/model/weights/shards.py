"""Which part of a parameter this process holds, as a box: a start and an end in every dimension.

    the whole of a (6, 4) parameter                     ((0, 6), (0, 4))
    rank 1 of 2 that shard its rows                     ((3, 6), (0, 4))
    expert 2 of a file, in a stacked (8, 4, 3) tensor   ((2, 3), (0, 4), (0, 3))

What a process has to read of a tensor is where two boxes meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Box = tuple[tuple[int, int], ...]


def whole(shape: tuple[int, ...]) -> Box:
    """The box of a tensor that nobody has cut."""
    return tuple((0, size) for size in shape)


def local_part(tensor: Tensor) -> tuple[Tensor, Box]:
    """The plain tensor that this process holds of a parameter, and its place in the whole.

    ValueError when a sharding scatters what a process holds over several places of one dimension.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return tensor.detach(), whole(tuple(tensor.shape))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = tensor.detach().to_local()
    if tuple(local.shape) != tuple(shape):
        raise ValueError(f"this rank holds {tuple(local.shape)} of a parameter, its sharding says {tuple(shape)}")
    _check_in_one_piece(tensor)
    return local, tuple((start, start + size) for start, size in zip(offset, shape, strict=True))


def _check_in_one_piece(tensor) -> None:
    """A strided shard of s stripes lies in one piece when the mesh dimensions after it cut it into the same s."""
    sizes, placements = tensor.device_mesh.shape, tensor.placements
    for position, placement in enumerate(placements):
        stripes = getattr(placement, "split_factor", None)
        if stripes is None:
            continue
        later = zip(sizes[position + 1 :], placements[position + 1 :], strict=True)
        cuts = math.prod(size for size, other in later if getattr(other, "dim", None) == placement.dim)
        if cuts != stripes:
            raise ValueError(f"sharding {placements} scatters rows: {stripes} stripes, but {cuts} cuts after it")


def meet(first: Box, second: Box) -> Box | None:
    """Where two boxes overlap, or None."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))
    return None if any(start >= stop for start, stop in common) else common


def within(box: Box, outer: Box) -> tuple[slice, ...]:
    """Slices that pick a box out of a tensor whose own place is `outer`."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(box, outer, strict=True))


def copy_into(local: Tensor, place: Box, values: Tensor, box: Box) -> None:
    """Write values, which belong at `box` of the whole, into the part of it that lies at `place`; casts."""
    with torch.no_grad():
        local[within(box, place)].copy_(values)
