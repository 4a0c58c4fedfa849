"""The pixels of a picture where Pillow keeps them: four bytes each, read over its Arrow interface without a copy."""

from __future__ import annotations

import ctypes
import struct
import sys

import numpy as np
from PIL import Image

_FOREIGN = sys.byteorder != "little" or struct.calcsize("P") != 8
"""Machines on which Pillow's memory is read the plain way."""

_ARROW_ARRAY = struct.Struct("=5q5Q")
"""length, null_count, offset, n_buffers, n_children; buffers, children, dictionary, release, private_data.

https://arrow.apache.org/docs/format/CDataInterface.html, on machines with addresses of 8 bytes.
"""

_capsule_address = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_address.restype, _capsule_address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _addresses(place: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"={count}Q", ctypes.string_at(place, 8 * count))


class PillowPixels:
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
