"""Where each patch of a picture lies: rotary positions, attention windows and segment lengths, in numpy.

The vision tower of Qwen2.5-VL orders patches by 2x2 merge blocks, attends inside windows of 112x112 pixels in most
layers and over the whole picture in a few. Transformers derives this from `grid_thw` in every forward pass, with
tensor operations and device reads; here the data workers do it once per pack.

A picture of 4x6 patches with merge 2 has 2x3 visual tokens; with windows of 2x2 visual tokens their order is

    0 1 | 2        window_index  [0 1 3 4 | 2 5]
    3 4 | 5        window_lengths (16, 8) patches
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mindvl.batch import ImageGrid


@dataclass(frozen=True)
class VisionLayout:
    """Layout of several pictures, laid end to end."""

    position_ids: np.ndarray
    """(patches, 2) int64: row and column of each patch inside its picture."""
    window_index: np.ndarray
    """(merged,) int64."""
    restore_index: np.ndarray
    """(merged,) int64."""
    image_lengths: tuple[int, ...]
    window_lengths: tuple[int, ...]


@lru_cache(maxsize=4096)
def _layout_of_grid(grid: ImageGrid, merge: int, window_tokens: int):
    """Positions, window order and window lengths of one picture, starting at zero."""
    if grid.height % merge or grid.width % merge:
        raise ValueError(f"a grid of {grid.height}x{grid.width} patches does not divide into {merge}x{merge} blocks")
    rows, columns = np.meshgrid(np.arange(grid.height), np.arange(grid.width), indexing="ij")
    blocks = (grid.height // merge, merge, grid.width // merge, merge)
    positions = np.stack([axis.reshape(blocks).swapaxes(1, 2).reshape(-1) for axis in (rows, columns)], axis=-1)
    positions = np.tile(positions, (grid.frames, 1)).astype(np.int64)

    height, width = grid.height // merge, grid.width // merge
    token = np.arange(grid.frames * height * width).reshape(grid.frames, height, width)
    order, lengths = [], []
    for frame in range(grid.frames):
        for top in range(0, height, window_tokens):
            for left in range(0, width, window_tokens):
                window = token[frame, top : top + window_tokens, left : left + window_tokens].reshape(-1)
                order.append(window)
                lengths.append(len(window) * merge**2)
    return positions, np.concatenate(order).astype(np.int64), tuple(lengths)


def vision_layout(grids: Sequence[ImageGrid], *, merge: int, window_tokens: int) -> VisionLayout:
    """Layout of `grids` in one pack; `window_tokens` is the side of an attention window in visual tokens."""
    positions, orders, window_lengths, image_lengths = [], [], [], []
    offset = 0
    for grid in grids:
        position, order, lengths = _layout_of_grid(grid, merge, window_tokens)
        positions.append(position)
        orders.append(order + offset)
        window_lengths.extend(lengths)
        image_lengths.extend([grid.height * grid.width] * grid.frames)
        offset += grid.merged(merge)
    window_index = np.concatenate(orders) if orders else np.zeros(0, np.int64)
    restore_index = np.empty_like(window_index)
    restore_index[window_index] = np.arange(len(window_index))
    return VisionLayout(
        position_ids=np.concatenate(positions) if positions else np.zeros((0, 2), np.int64),
        window_index=window_index,
        restore_index=restore_index,
        image_lengths=tuple(image_lengths),
        window_lengths=tuple(window_lengths),
    )
