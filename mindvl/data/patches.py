"""Cutting a picture into patches: the last thing that is done to pixels before the model sees them.

A picture of 2x4 patches is cut in the order of 2x2 merge blocks, each patch channel by channel:

    picture   a b | e f        rows of the result   a b c d e f g h
              c d | g h        one row              red (14 x 14), green (14 x 14), blue (14 x 14)

A patch of a video holds two frames, channel by channel: red of the first, red of the second, green of the first, ...
In a pack that holds a video, a still picture is written in the same shape, as two equal frames; the tower's result is
the same either way (`mindvl.ops.patch_embed`), and packs without videos stay half as large.

Pillow keeps an RGB picture as four bytes per pixel. The fast path reads them where they lie, resizes them on the way
(`mindvl.data.resize`) and moves each pixel once (0.13 ms for 644x476 pixels); numpy first has a packed copy made and
then moves each byte (0.56 ms), and is the twin that it is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import no_type_check

import numpy as np
from numba import njit
from PIL import Image

from mindvl.data.pillow_memory import PillowPixels
from mindvl.data.resize import pillow_order, resize_rgb

CHANNELS = 3


def cut_patches(
    image: Image.Image,
    *,
    patch: int,
    merge: int,
    size: tuple[int, int] | None = None,
    out: np.ndarray | None = None,
    frame: int = 0,
) -> np.ndarray:
    """(patches, 3 * patch * patch) bytes of an RGB picture, resized to `size` (height, width) where it has another.

    Sides are multiples of patch * merge then. Written into `out` where it is given; if its rows have room for several
    frames, `frame` says for which this is.
    """
    before = image.height, image.width
    height, width = after = size or before
    rows, columns = height // patch, width // patch
    if out is None:
        out = np.empty((rows * columns, CHANNELS * patch * patch), np.uint8)
    frames = out.reshape(rows * columns, CHANNELS, -1, patch, patch)
    with PillowPixels(image) as pixels:
        order = pillow_order() if after != before else None
        if pixels is not None and (after == before or order is not None):
            if order is not None:
                pixels = resize_rgb(pixels, height, width, columns_first=order(before, after))
            _cutter(patch)(pixels, merge, frames, frame)
            return out
    resized = image if after == before else image.resize((width, height), Image.Resampling.BICUBIC)
    plain = cut_patches_numpy(np.asarray(resized), patch=patch, merge=merge)
    frames[:, :, frame] = plain.reshape(rows * columns, CHANNELS, patch, patch)
    return out


def repeat_frame(out: np.ndarray, *, patch: int) -> None:
    """Where rows have room for two frames, the first one is shown twice."""
    frames = out.reshape(len(out), CHANNELS, -1, patch * patch)
    frames[:, :, 1:] = frames[:, :, :1]


def join_patches(parts: Sequence[np.ndarray], out: np.ndarray | None = None) -> np.ndarray:
    """Patches end to end, into the beginning of `out` where it is given.

    If any of them, or `out`, have room for two frames, all are given it.
    """
    pixels = max(part.shape[1] for part in parts) if out is None else out.shape[1]
    if out is None:
        out = np.empty((sum(map(len, parts)), pixels), np.uint8)
    used = 0
    for part in parts:
        frames, channel = out.shape[1] // part.shape[1], part.shape[1] // CHANNELS
        place = out[used : used + len(part)].reshape(len(part), CHANNELS, frames, channel)
        place[:] = part.reshape(len(part), CHANNELS, 1, channel)
        used += len(part)
    return out[:used]


def cut_patches_numpy(pixels: np.ndarray, *, patch: int, merge: int) -> np.ndarray:
    """The same of (height, width, 3) bytes: the plain form."""
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, CHANNELS)
    patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, CHANNELS * patch * patch)
    return np.ascontiguousarray(patches)


@lru_cache
def _cutter(patch: int) -> Callable[[np.ndarray, int, np.ndarray, int], None]:
    """The loop over pixels, compiled for one size of patch: inner loops of known length are twice as fast."""

    @njit(cache=True, nogil=True)
    @no_type_check
    def cut(pixels, merge, out, frame):
        """From (height, width) pixels of four bytes, red lowest, to (patches, channels, frames, patch, patch)."""
        rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
        number = 0
        for block_row in range(rows // merge):
            for block_column in range(columns // merge):
                for row in range(block_row * merge, (block_row + 1) * merge):
                    for column in range(block_column * merge, (block_column + 1) * merge):
                        for y in range(patch):
                            for x in range(patch):
                                pixel = pixels[row * patch + y, column * patch + x]
                                out[number, 0, frame, y, x] = pixel & 0xFF
                                out[number, 1, frame, y, x] = (pixel >> 8) & 0xFF
                                out[number, 2, frame, y, x] = (pixel >> 16) & 0xFF
                        number += 1

    return cut


def prepare_cutting(patch: int) -> None:
    """Compile, or load what was compiled before, so that data workers inherit it."""
    pillow_order()
    _cutter(patch)(np.zeros((patch, patch), np.uint32), 1, np.zeros((1, CHANNELS, 1, patch, patch), np.uint8), 0)
