"""Bicubic resizing, equal to Pillow's to the bit, in about a quarter of its time.

Pillow resizes in two passes, along rows and along columns. A pass is a weighted sum of a few neighbours, with weights
of 22 bits after the point, rounded to bytes; nothing in it depends on how the sums are arranged. So the same integers
are summed here with as many lanes as the processor has: columns of a row side by side, and for the pass along rows a
strip of 32 rows turned on its side, so that 32 pixels lie where one register reads them.

    602 x 908 pixels to 616 x 896          Pillow 5.5 ms          here 1.4 ms

Which pass comes first changes the rounding. Pillow used to do rows first; 13.0 does columns first where a picture loses
more than twice as many rows as columns. `pillow_order` tries on small pictures what the installed one does; where it is
neither, Pillow does the work itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit
from PIL import Image

_WEIGHT_BITS = 22
_STRIP_ROWS = 32
_REACH = 2.0
"""A bicubic weight is 0 beyond this many pixels of the smaller picture."""


class _Weights(NamedTuple):
    """For each pixel of a resized line: the first it is made of, how many there are, and their weights."""

    first: np.ndarray
    taps: np.ndarray
    weights: np.ndarray


def resize_rgb(pixels: np.ndarray, height: int, width: int, *, columns_first: bool) -> np.ndarray:
    """(height, width) pixels from pixels of another size: four bytes each, of which the fourth means nothing."""
    source_height, source_width = pixels.shape
    if columns_first and source_height != height:
        pixels = _along_columns(pixels, height)
    if source_width != width:
        resized = np.empty((len(pixels), width), np.uint32)
        _resize_rows(np.ascontiguousarray(pixels), *_weights(source_width, width), resized)
        pixels = resized
    if len(pixels) != height:
        pixels = _along_columns(pixels, height)
    return pixels


def _along_columns(pixels: np.ndarray, height: int) -> np.ndarray:
    resized = np.empty((height, pixels.shape[1]), np.uint32)
    weights = _weights(len(pixels), height)
    _resize_columns(np.ascontiguousarray(pixels).view(np.uint8), *weights, resized.view(np.uint8))
    return resized


Order = Callable[[tuple[int, int], tuple[int, int]], bool]
"""Whether columns come first, from the size (height, width) before and after."""


def _rows_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    return False


def _shorter_way(before: tuple[int, int], after: tuple[int, int]) -> bool:
    rows, columns = before[0] - after[0], before[1] - after[1]
    return rows > 0 and rows > 2 * columns


_PROBES = (((37, 53), (20, 60)), ((40, 31), (37, 30)), ((31, 40), (30, 37)), ((90, 80), (40, 20)), ((20, 30), (50, 42)))
"""Sizes before and after that tell the orders apart."""


@lru_cache
def pillow_order() -> Order | None:
    """The order of passes of the Pillow that is installed; None when its results are not ours in any."""
    pictures = np.random.default_rng(0)
    found: list[Order] = [_rows_first, _shorter_way]
    for before, after in _PROBES:
        pixels = pictures.integers(0, 256, (*before, 4), dtype=np.uint8)
        theirs = np.asarray(Image.fromarray(pixels[..., :3]).resize(after[::-1], Image.Resampling.BICUBIC))
        found = [order for order in found if np.array_equal(_probe(pixels, after, order), theirs)]
    return found[0] if found else None


def _probe(pixels: np.ndarray, after: tuple[int, int], order: Order) -> np.ndarray:
    before = pixels.shape[0], pixels.shape[1]
    resized = resize_rgb(pixels.view(np.uint32)[..., 0], *after, columns_first=order(before, after))
    return resized.view(np.uint8).reshape(*after, 4)[..., :3]


@lru_cache(maxsize=512)
def _weights(size: int, target: int) -> _Weights:
    reach = _REACH * max(1.0, size / target)
    weights = _Weights(
        np.zeros(target, np.int32), np.zeros(target, np.int32), np.zeros((target, 2 * math.ceil(reach) + 1), np.int32)
    )
    _fill_weights(size, reach, *weights)
    return weights


@njit(cache=True)
@no_type_check
def _fill_weights(size, reach, first, count, weights):
    """Keys' cubic with a = -1/2, stretched where the line gets shorter, normalised, rounded half away from 0."""
    target = len(first)
    scale, stretch = size / target, 2.0 / reach
    line = np.empty(weights.shape[1])
    for place in range(target):
        center = (place + 0.5) * scale
        start, stop = max(0, int(center - reach + 0.5)), min(size, int(center + reach + 0.5))
        total = 0.0
        for tap in range(stop - start):
            x = abs((tap + start - center + 0.5) * stretch)
            weight = 0.0
            if x < 1.0:
                weight = (1.5 * x - 2.5) * x * x + 1.0
            elif x < 2.0:
                weight = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
            line[tap] = weight
            total += weight
        first[place], count[place] = start, stop - start
        for tap in range(stop - start):
            weight = line[tap] / total * (1 << _WEIGHT_BITS)
            weights[place, tap] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)


@njit(cache=True, nogil=True)
@no_type_check
def _resize_columns(source, first, count, weights, out):
    """From (height, bytes) to (target, bytes): every byte of a row is summed side by side."""
    size = source.shape[1]
    sums = np.empty(size, np.int32)
    for place in range(len(first)):
        for byte in range(size):
            sums[byte] = 1 << (_WEIGHT_BITS - 1)
        for tap in range(count[place]):
            weight, line = weights[place, tap], source[first[place] + tap]
            for byte in range(size):
                sums[byte] += np.int32(line[byte]) * weight
        for byte in range(size):
            out[place, byte] = min(max(sums[byte] >> _WEIGHT_BITS, 0), 255)


@njit(cache=True, nogil=True)
@no_type_check
def _resize_rows(pixels, first, count, weights, out):
    """From (height, width) to (height, target) pixels, a strip of rows at a time."""
    height, width = pixels.shape
    strip, done = np.empty((width, _STRIP_ROWS), np.uint32), np.empty(_STRIP_ROWS, np.uint32)
    strip_bytes, done_bytes = strip.view(np.uint8), done.view(np.uint8)
    sums = np.empty(4 * _STRIP_ROWS, np.int32)
    for top in range(0, height, _STRIP_ROWS):
        rows = min(_STRIP_ROWS, height - top)
        for x in range(width):
            for y in range(rows):
                strip[x, y] = pixels[top + y, x]
        for x in range(len(first)):
            for byte in range(4 * _STRIP_ROWS):
                sums[byte] = 1 << (_WEIGHT_BITS - 1)
            for tap in range(count[x]):
                weight, line = weights[x, tap], strip_bytes[first[x] + tap]
                for byte in range(4 * _STRIP_ROWS):
                    sums[byte] += np.int32(line[byte]) * weight
            for byte in range(4 * _STRIP_ROWS):
                done_bytes[byte] = min(max(sums[byte] >> _WEIGHT_BITS, 0), 255)
            for y in range(rows):
                out[top + y, x] = done[y]
