"""Resizing gives Pillow's pixels to the bit, for any sizes and whichever pass comes first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl.data import resize
from mindvl.data.resize import pillow_order, resize_rgb

SIDE = st.integers(1, 90)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)


def ours(pixels, after, columns_first):
    resized = resize_rgb(pixels.view(np.uint32)[..., 0], *after, columns_first=columns_first)
    return resized.view(np.uint8).reshape(*after, 4)[..., :3]


def pillows(pixels, after):
    return np.asarray(Image.fromarray(pixels[..., :3]).resize(after[::-1], Image.Resampling.BICUBIC))


@settings(max_examples=150, deadline=None)
@given(before=st.tuples(SIDE, SIDE), after=st.tuples(SIDE, SIDE), seed=st.integers(0, 9))
def test_pixels_are_pillows_to_the_bit(before, after, seed):
    order = pillow_order()
    assert order is not None, "this Pillow resizes in another way: every picture takes the slow path"
    pixels = picture(*before, seed)
    assert np.array_equal(ours(pixels, after, order(before, after)), pillows(pixels, after))


def test_sharp_edges_that_overshoot_are_clipped_as_pillow_clips_them():
    pixels = np.where(picture(64, 64) > 127, 255, 0).astype(np.uint8)
    order = pillow_order()
    for after in ((28, 140), (140, 28), (200, 200), (9, 9)):
        assert np.array_equal(ours(pixels, after, order((64, 64), after)), pillows(pixels, after))


def test_the_same_size_changes_nothing():
    pixels = picture(20, 31)
    assert np.array_equal(ours(pixels, (20, 31), False), pixels[..., :3])


@pytest.mark.parametrize("columns_first", [False, True])
def test_two_passes_of_pillow_are_the_twin_of_either_order(columns_first):
    pixels = picture(50, 47)
    steps = [(30, 47), (30, 60)] if columns_first else [(50, 60), (30, 60)]
    twin = pixels[..., :3]
    for step in steps:
        twin = pillows(np.concatenate([twin, twin[..., :1]], axis=2), step)
    assert np.array_equal(ours(pixels, (30, 60), columns_first), twin)


def test_a_pillow_that_resizes_in_another_way_is_found_out(monkeypatch):
    real = Image.Image.resize
    pillow_order.cache_clear()
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, resample: real(self, size, Image.Resampling.LANCZOS))
    assert pillow_order() is None
    monkeypatch.undo()
    pillow_order.cache_clear()
    assert pillow_order() in (resize._rows_first, resize._shorter_way)
