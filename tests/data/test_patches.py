"""Patches read from Pillow's own memory are those of its plain copy."""

import numpy as np
import pytest
from PIL import Image

from mindvl.data.patches import cut_patches, cut_patches_numpy, join_patches, repeat_frame
from mindvl.data.pillow_memory import PillowPixels


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


@pytest.mark.parametrize("plain", [False, True])
def test_two_frames_share_a_row_channel_by_channel(plain, monkeypatch):
    if plain:
        monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    first, second = noise(28, 56), noise(28, 56).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rows = np.zeros((8, 1176), np.uint8)
    for frame, image in enumerate((first, second)):
        cut_patches(image, patch=14, merge=2, out=rows, frame=frame)
    frames = [cut_patches_numpy(np.asarray(image), patch=14, merge=2) for image in (first, second)]
    assert np.array_equal(rows, np.stack([frame.reshape(8, 3, 196) for frame in frames], axis=2).reshape(8, 1176))


def test_a_repeated_frame_is_the_first_one_twice():
    rows = np.zeros((8, 1176), np.uint8)
    cut_patches(noise(28, 56), patch=14, merge=2, out=rows)
    repeat_frame(rows, patch=14)
    once = cut_patches_numpy(np.asarray(noise(28, 56)), patch=14, merge=2)
    assert np.array_equal(rows, np.repeat(once.reshape(8, 3, 1, 196), 2, axis=2).reshape(8, 1176))
    still = once.copy()
    repeat_frame(still, patch=14)
    assert np.array_equal(still, once), "rows of one frame have no room for a second"


def test_joined_patches_are_widened_where_one_of_them_is_wide():
    still, video = np.arange(2 * 12, dtype=np.uint8).reshape(2, 12), np.zeros((1, 24), np.uint8)
    assert np.array_equal(join_patches([still, still[:0], still]), np.concatenate([still, still]))
    joined = join_patches([still, video])
    assert joined[0].tolist() == [0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2 + [8, 9, 10, 11] * 2
    room = np.full((5, 24), 7, np.uint8)
    assert np.array_equal(join_patches([still, video], room), joined) and (room[3:] == 7).all()


def test_pillow_shows_its_pixels_without_a_copy_and_the_fallback_gives_the_same(monkeypatch):
    image = noise(28, 56)
    with PillowPixels(image) as pixels:
        assert pixels is not None and pixels.shape == (28, 56)
        image.putpixel((3, 2), (1, 2, 3))
        assert pixels[2, 3] & 0xFFFFFF == 0x030201
    fast = cut_patches(image, patch=14, merge=2)
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert np.array_equal(cut_patches(image, patch=14, merge=2), fast)


def test_a_picture_in_several_blocks_of_memory_is_cut_from_a_copy():
    image = noise(28 * 90, 28 * 70)  # 20 MB in Pillow, whose blocks hold 16
    with PillowPixels(image) as pixels:
        assert pixels is None
    expected = cut_patches_numpy(np.asarray(image), patch=14, merge=2)
    assert np.array_equal(cut_patches(image, patch=14, merge=2), expected)


@pytest.mark.parametrize("way", ["ours", "pillow shows no memory", "pillow resizes in another way"])
def test_a_picture_is_resized_on_the_way_as_pillow_would(way, monkeypatch):
    image, size = noise(75, 50), (56, 84)
    resized = image.resize((84, 56), Image.Resampling.BICUBIC)
    if way == "pillow shows no memory":
        monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    elif way == "pillow resizes in another way":
        monkeypatch.setattr("mindvl.data.patches.pillow_order", lambda: None)
    expected = cut_patches_numpy(np.asarray(resized), patch=14, merge=2)
    assert np.array_equal(cut_patches(image, patch=14, merge=2, size=size), expected)
