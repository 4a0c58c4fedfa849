"""Patches read from Pillow's own memory are those of its plain copy."""

import numpy as np
import pytest
from PIL import Image

from mindvl.data.patches import _Pixels, cut_patches, cut_patches_numpy


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "patch", "merge"), [((28, 28), 14, 2), ((56, 140), 14, 2), ((48, 96), 16, 3), ((2800, 2520), 14, 2)]
)
def test_the_fast_path_cuts_what_numpy_cuts(size, patch, merge):
    image = noise(*size)
    expected = cut_patches_numpy(np.asarray(image), patch=patch, merge=merge)
    assert np.array_equal(cut_patches(image, patch=patch, merge=merge), expected)
    out = np.zeros_like(expected)
    assert cut_patches(image, patch=patch, merge=merge, out=out) is out and np.array_equal(out, expected)


def test_the_order_of_the_toy_picture_of_the_module_is_right():
    pixels = np.repeat(np.frombuffer(b"abefcdgh", np.uint8).reshape(2, 4, 1), 3, axis=2)
    assert bytes(cut_patches_numpy(pixels, patch=1, merge=2)[:, 0]) == b"abcdefgh"
    assert bytes(cut_patches(Image.fromarray(pixels), patch=1, merge=2)[:, 0]) == b"abcdefgh"


def test_pillow_shows_its_pixels_without_a_copy_and_the_fallback_gives_the_same(monkeypatch):
    image = noise(28, 56)
    with _Pixels(image) as pixels:
        assert pixels is not None and pixels.shape == (28, 56)
        image.putpixel((3, 2), (1, 2, 3))
        assert pixels[2, 3] & 0xFFFFFF == 0x030201
    fast = cut_patches(image, patch=14, merge=2)
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert np.array_equal(cut_patches(image, patch=14, merge=2), fast)


def test_a_picture_in_several_blocks_of_memory_is_cut_from_a_copy():
    image = noise(28 * 90, 28 * 70)  # 20 MB in Pillow, whose blocks hold 16
    with _Pixels(image) as pixels:
        assert pixels is None
    expected = cut_patches_numpy(np.asarray(image), patch=14, merge=2)
    assert np.array_equal(cut_patches(image, patch=14, merge=2), expected)
