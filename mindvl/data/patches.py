"""Cutting a picture into patches: the last thing that is done to pixels before the model sees them.

A picture of 2x4 patches is cut in the order of 2x2 merge blocks, each patch channel by channel:

    picture   a b | e f        rows of the result   a b c d e f g h
              c d | g h        one row              red (14 x 14), green (14 x 14), blue (14 x 14)

Pillow keeps an RGB picture as four bytes per pixel. The fast path reads them where they lie, over Pillow's Arrow
interface, and moves each pixel once (0.13 ms for 644x476 pixels); numpy first has a packed copy made and then moves
each byte (0.56 ms), and is the twin that it is tested against.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import no_type_check

import numpy as np
from numba import njit
from PIL import Image

CHANNELS = 3

_FOREIGN = sys.byteorder != "little" or struct.calcsize("P") != 8
"""Machines on which Pillow's memory is read the plain way."""


def cut_patches(image: Image.Image, *, patch: int, merge: int, out: np.ndarray | None = None) -> np.ndarray:
    """(patches, 3 * patch * patch) bytes of an RGB picture whose sides are multiples of patch * merge.

    Written into `out` where it is given.
    """
    rows, columns = image.height // patch, image.width // patch
    if out is None:
        out = np.empty((rows * columns, CHANNELS * patch * patch), np.uint8)
    with _Pixels(image) as pixels:
        if pixels is None:
            out[:] = cut_patches_numpy(np.asarray(image), patch=patch, merge=merge)
        else:
            _cutter(patch)(pixels, merge, out.reshape(rows * columns, CHANNELS, patch, patch))
    return out


def cut_patches_numpy(pixels: np.ndarray, *, patch: int, merge: int) -> np.ndarray:
    """The same of (height, width, 3) bytes: the plain form."""
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, CHANNELS)
    patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, CHANNELS * patch * patch)
    return np.ascontiguousarray(patches)


@lru_cache
def _cutter(patch: int) -> Callable[[np.ndarray, int, np.ndarray], None]:
    """The loop over pixels, compiled for one size of patch: inner loops of known length are twice as fast."""

    @njit(cache=True, nogil=True)
    @no_type_check
    def cut(pixels, merge, out):
        """From (height, width) pixels of four bytes, red lowest, to (patches, channels, patch, patch)."""
        rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
        number = 0
        for block_row in range(rows // merge):
            for block_column in range(columns // merge):
                for row in range(block_row * merge, (block_row + 1) * merge):
                    for column in range(block_column * merge, (block_column + 1) * merge):
                        for y in range(patch):
                            for x in range(patch):
                                pixel = pixels[row * patch + y, column * patch + x]
                                out[number, 0, y, x] = pixel & 0xFF
                                out[number, 1, y, x] = (pixel >> 8) & 0xFF
                                out[number, 2, y, x] = (pixel >> 16) & 0xFF
                        number += 1

    return cut


def prepare_cutting(patch: int) -> None:
    """Compile, or load what was compiled before, so that data workers inherit it."""
    _cutter(patch)(np.zeros((patch, patch), np.uint32), 1, np.zeros((1, CHANNELS, patch, patch), np.uint8))


_ARROW_ARRAY = struct.Struct("=5q5Q")
"""length, null_count, offset, n_buffers, n_children; buffers, children, dictionary, release, private_data.

https://arrow.apache.org/docs/format/CDataInterface.html, on machines with addresses of 8 bytes.
"""

_capsule_address = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_address.restype, _capsule_address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _addresses(place: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"={count}Q", ctypes.string_at(place, 8 * count))


class _Pixels:
    """A picture's pixels as (height, width) uint32 where Pillow keeps them, for as long as the block lasts.

    None where it cannot show them: in an older Pillow, for a picture in several blocks of memory (over 16 MB), on a
    machine that stores the highest byte first.
    """

    def __init__(self, image: Image.Image):
        self._image = image
        self._capsules: tuple[object, object] | None = None

    def __enter__(self) -> np.ndarray | None:
        image = self._image
        if not hasattr(image, "__arrow_c_array__") or _FOREIGN or image.mode != "RGB":
            return None
        try:
            self._capsules = image.__arrow_c_array__()
        except (ValueError, MemoryError):
            return None
        place = _capsule_address(self._capsules[1], b"arrow_array")
        length, _, offset, _, children, _, child, *_ = _ARROW_ARRAY.unpack(ctypes.string_at(place, _ARROW_ARRAY.size))
        if children != 1 or offset or length != image.width * image.height:
            return None
        (bands,) = _addresses(child, 1)
        length, _, offset, buffers, _, held, *_ = _ARROW_ARRAY.unpack(ctypes.string_at(bands, _ARROW_ARRAY.size))
        if length != 4 * image.width * image.height or offset or buffers != 2:
            return None
        _, first = _addresses(held, 2)
        memory = (ctypes.c_char * length).from_address(first)
        return np.frombuffer(memory, np.uint32).reshape(image.height, image.width)

    def __exit__(self, *_) -> None:
        self._capsules = None
