"""Learned positions for pictures of any size: a small square table, stretched over each picture's grid of patches.

Qwen3-VL learns 48x48 positions, NaFlexViT 16x16. A picture of 2x6 patches reads its 12 vectors from between the
entries, as if the table were an image resized to 2x6. With a table of side 4, and bilinear steps from corner to corner:

    row 1 of 2      lies at table row 3.0       entries (3, 3) with weights (1, 0)
    column 2 of 6   lies at table column 1.2    entries (1, 2) with weights (0.8, 0.2)

Resizing the table once per picture is a call per size, and in a pack nearly every picture has its own. Here every patch
of the pack gets its entries and weights at once, and one weighted sum does the rest; sizes stay on the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mindvl.ops.precision import at_least_fp32

Kernel = Literal["bilinear", "bicubic"]


def sample_table_reference(
    table: Float[Tensor, "rows columns dim"],
    height: int,
    width: int,
    *,
    kernel: Kernel,
    align_corners: bool = False,
    antialias: bool = False,
) -> Float[Tensor, "height width dim"]:
    """The definition, for one picture of height x width patches: the table resized like an image."""
    image = at_least_fp32(table).permute(2, 0, 1)[None]
    resized = F.interpolate(image, (height, width), mode=kernel, align_corners=align_corners, antialias=antialias)
    return resized[0].permute(1, 2, 0)


def sample_table(
    table: Float[Tensor, "rows columns dim"],
    positions: Int[Tensor, "patches 2"],
    sizes: Int[Tensor, "patches 2"],
    *,
    kernel: Kernel,
    align_corners: bool = False,
    antialias: bool = False,
) -> Float[Tensor, "patches dim"]:
    """Position vectors in fp32. `positions` are row and column of each patch, `sizes` its picture's height and width.

    With `antialias`, a table that shrinks is averaged over as many entries as fall on a patch, and all entries take
    part in one matrix product; without, the four or sixteen around each patch are summed.
    """
    rows, columns, dim = table.shape
    entries = at_least_fp32(table).reshape(rows * columns, dim)
    axes = [
        _axis_weights(positions[:, axis], sizes[:, axis], side, kernel, align_corners, antialias)
        for axis, side in enumerate((rows, columns))
    ]
    (near_row, row_weight), (near_column, column_weight) = axes
    weights = (row_weight[:, :, None] * column_weight[:, None, :]).flatten(1).to(entries.dtype)
    if antialias:
        with torch.autocast(table.device.type, enabled=False):
            return weights @ entries
    near = (near_row[:, :, None] * columns + near_column[:, None, :]).flatten(1)
    return F.embedding_bag(near, entries, per_sample_weights=weights, mode="sum")


def sample_line(
    table: Float[Tensor, "side dim"], positions: Int[Tensor, " patches"], sizes: Int[Tensor, " patches"]
) -> Float[Tensor, "patches dim"]:
    """The same along one axis, with linear steps: tables that are learned for rows and for columns apart."""
    near, weights = _axis_weights(positions, sizes, table.shape[0], "bilinear", False, False)
    entries = at_least_fp32(table)
    return F.embedding_bag(near, entries, per_sample_weights=weights.to(entries.dtype), mode="sum")


def _axis_weights(
    position: Tensor, size: Tensor, side: int, kernel: Kernel, align_corners: bool, antialias: bool
) -> tuple[Int[Tensor, "patches near"], Float[Tensor, "patches near"]]:
    """Which of the `side` entries of an axis a patch at `position` of `size` reads, and how much of each."""
    position, size = position.float(), size.float()
    corner_step = torch.where(size > 1, (side - 1) / (size - 1).clamp(min=1), 0.0)
    step = corner_step if align_corners else side / size
    if antialias:
        entry = torch.arange(side, device=position.device)
        distance = (entry + 0.5 - (step * (position + 0.5))[:, None]) / step.clamp(min=1)[:, None]
        weights = _kernel(distance.abs(), kernel, sharpness=0.5)
        return entry.expand(len(position), side), weights / weights.sum(dim=1, keepdim=True)
    place = position * step if align_corners else (position + 0.5) * step - 0.5
    first = place.floor()
    offsets = torch.arange(2, device=place.device) if kernel == "bilinear" else torch.arange(-1, 3, device=place.device)
    distance = ((place - first)[:, None] - offsets).abs()
    return (first[:, None].long() + offsets).clamp(0, side - 1), _kernel(distance, kernel, sharpness=0.75)


def _kernel(distance: Tensor, kernel: Kernel, *, sharpness: float) -> Tensor:
    """Weight of an entry at a distance: a triangle, or the cubic of Keys (1981), zero from 1 or 2 entries on."""
    if kernel == "bilinear":
        return (1 - distance).clamp(min=0)
    a = -sharpness
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
