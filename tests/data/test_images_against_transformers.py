"""One image processor for training and inference: pixels are those of transformers' PIL Qwen2-VL processor, to the bit.

Theirs writes each frame of a still picture twice into a patch, channel by channel; ours keeps one.

    theirs   red frame 1, red frame 2, green frame 1, ...    1176 values
    ours     red, green, blue                                 588
"""

import io

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mindvl.data.images import open_image, patchify
from mindvl.model.config import CLIP_MEAN, CLIP_STD

BUDGETS = [(56 * 56, 28 * 28 * 1280), (28 * 28, 64 * 28 * 28), (400 * 28 * 28, 410 * 28 * 28)]
SIZES = [
    *[(1, 1), (2, 2), (13, 14), (28, 28), (27, 29), (42, 70), (56, 140), (98, 126)],  # the last halves: 3.5 and 4.5
    *[(640, 427), (1000, 31), (31, 1000), (777, 555), (1200, 900), (12, 2400), (2400, 12), (40, 7990)],
]
"""Height and width in pixels; the last three are ratios of 200 and just below."""


def noise(height, width, mode="RGB"):
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(height * 10007 + width).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(values, mode)


def as_file(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "png" if not options else "jpeg", **options)
    return buffer.getvalue()


def theirs(image, budget, **settings):
    low, high = budget
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": low, "longest_edge": high})
    made = processor(image, return_tensors="np", **settings)
    values = made["pixel_values"].reshape(len(made["pixel_values"]), 3, 2, -1)
    assert np.array_equal(values[:, :, 0], values[:, :, 1])  # the two frames of a still
    return values[:, :, 0].reshape(len(values), -1), made["image_grid_thw"].tolist()


def ours(image, budget):
    patches, grid = patchify(image, min_pixels=budget[0], max_pixels=budget[1])
    return patches, [[grid.frames, grid.height, grid.width]]


def compare(image, budget):
    patches, grid = ours(image, budget)
    pixels, their_grid = theirs(image, budget, do_rescale=False, do_normalize=False)
    assert grid == their_grid
    assert np.array_equal(patches, pixels)  # theirs are floats that hold bytes


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_bytes_are_equal_at_every_size(size, budget):
    compare(noise(*size), budget)


def test_bytes_are_equal_at_random_sizes():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(4, 500, (60, 2)).tolist():
        compare(noise(height, width), BUDGETS[1])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_bytes_are_equal_once_our_policy_has_made_a_picture_rgb(mode):
    image = open_image(as_file(noise(75, 130, mode)))
    assert image.mode == "RGB"
    compare(image, BUDGETS[1])
    if mode == "L":  # what they make of grey themselves is the same; transparency they cut off, we lay it on white
        assert np.array_equal(ours(image, BUDGETS[1])[0], theirs(noise(75, 130, "L").convert("RGB"), BUDGETS[1],
                              do_rescale=False, do_normalize=False)[0])  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bytes_are_equal_once_a_picture_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(as_file(noise(60, 180), exif=exif, quality=95))
    assert (image.height, image.width) == ((60, 180) if orientation <= 4 else (180, 60))
    compare(image, BUDGETS[1])


@pytest.mark.parametrize("size", [(56, 140), (200, 333)])
def test_floats_are_theirs_when_bytes_are_normalised_in_double_precision(size):
    """Training never makes these floats, it folds the normalisation into the kernel of the patch embedding."""
    patches, _ = ours(noise(*size), BUDGETS[0])
    floats, _ = theirs(noise(*size), BUDGETS[0])
    mean, std = (np.repeat(values, 14 * 14).astype(np.float32) for values in (CLIP_MEAN, CLIP_STD))
    scaled = (patches.astype(np.float64) * (1 / 255)).astype(np.float32)
    assert floats.dtype == np.float32
    assert np.array_equal((scaled - mean) / std, floats)


def test_a_ratio_above_200_is_refused_by_both():
    image = noise(10, 2001)
    for process in (ours, theirs):
        with pytest.raises(ValueError, match="aspect ratio must be smaller than 200"):
            process(image, BUDGETS[0])
