"""Steps that look at pictures and frames: at headers, or at every pixel. Samples without pictures pass."""

from __future__ import annotations

from collections.abc import Callable

from mindvl.data.images import image_size, open_image
from mindvl.data.raw import RawSample


def resolution(sample: RawSample, *, min_side_pixels: int = 28, max_pixels: int = 50_000_000) -> RawSample | str:
    """Bounds on the shorter side and on the area of every picture, read from its header.

    28 pixels are one visual token. Above 100 million pixels a picture counts as unreadable: the header is not believed.
    """

    def judge(height: int, width: int) -> str | None:
        if min(height, width) < min_side_pixels:
            return "picture too small"
        return "picture too large" if height * width > max_pixels else None

    return _judge_sizes(sample, judge)


def aspect_ratio(sample: RawSample, *, max_ratio: float = 20.0) -> RawSample | str:
    """A bound on the longer side over the shorter one. The model's own preprocessing refuses more than 200."""
    return _judge_sizes(sample, lambda h, w: "picture too narrow" if max(h, w) > max_ratio * min(h, w) else None)


def decodes(sample: RawSample) -> RawSample | str:
    """Decodes every picture to its last pixel: finds files that were cut off in a download, whose headers are fine."""
    for data in sample.files:
        try:
            open_image(data)
        except ValueError:
            return "picture does not decode"
    return sample


def _judge_sizes(sample: RawSample, judge: Callable[[int, int], str | None]) -> RawSample | str:
    for data in sample.files:
        try:
            height, width = image_size(data)
        except ValueError:
            return "picture unreadable"
        if reason := judge(height, width):
            return reason
    return sample
