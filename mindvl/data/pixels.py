"""How large pictures and frames become: bounds on their area, by Qwen2.5-VL's rules.

A picture is brought between `min_pixels` and `max_pixels` (`mindvl.data.images.smart_resize`). All frames of a video
become one size, by the same rule with bounds of their own, and a long video pays with the size of its frames: its n
frames share `video_total_pixels`, two of them counting as one since the tower reads frames in pairs. With the defaults
a frame of 720x1280 pixels becomes

    frames          up to 316    400        768
    pixels          560x1008     504x896    336x644
    visual tokens   720 a pair   576        276

This is qwen-vl-utils' rule, and transformers' with `cap_pixels_per_frame=True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mindvl.data.images import smart_resize, smart_resize_many
from mindvl.data.patches import CHANNELS


@dataclass(frozen=True)
class PixelBudget:
    """Bounds on the area of a resized picture, in pixels, and the sizes of patches it is cut into."""

    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 1280 * 28 * 28
    patch: int = 14
    merge: int = 2
    video_min_pixels: int = 128 * 28 * 28
    """Of one frame."""
    video_max_pixels: int = 768 * 28 * 28
    """Of one frame."""
    video_total_pixels: int = 115_200 * 28 * 28
    """Of all frames, where those of one patch count as one: 90 % of 128,000 visual tokens."""
    frames: int = 2
    """Frames of a video in one patch: two in Qwen's towers, which are shown an odd last one twice; one in others."""

    def __post_init__(self):
        for kind in ("", "video_"):
            low, high = (getattr(self, f"{kind}{bound}_pixels") for bound in ("min", "max"))
            if low > high:
                raise ValueError(f"{kind}min_pixels is {low}, more than {kind}max_pixels, {high}")

    @classmethod
    def of_model(cls, config: Any) -> PixelBudget:
        """The budget that a model's configuration states."""
        vision = config.vision_config
        video = {name: getattr(config, name) for name in ("video_min_pixels", "video_max_pixels", "video_total_pixels")}
        sizes = {"patch": vision.patch_size, "merge": vision.spatial_merge_size, "frames": vision.temporal_patch_size}
        return cls(config.min_pixels, config.max_pixels, **sizes, **video)

    @property
    def factor(self) -> int:
        """Pixels per side of a visual token."""
        return self.patch * self.merge

    def patch_bytes(self, *, has_video: bool) -> int:
        """Bytes of a patch in a pack; if that holds a video, all its patches have room for as many frames."""
        return CHANNELS * self.patch**2 * (self.frames if has_video else 1)

    def frame_size(self, height: int, width: int, *, num_frames: int) -> tuple[int, int]:
        """(height, width) in pixels of each of so many frames. Raises ValueError above an aspect ratio of 200."""
        share = self.video_total_pixels * self.frames // num_frames
        cap = max(min(self.video_max_pixels, share), int(self.video_min_pixels * 1.05))
        return smart_resize(height, width, factor=self.factor, min_pixels=self.video_min_pixels, max_pixels=cap)

    def slices(self, height: np.ndarray, width: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(visual tokens of a slice, slices) of many visuals at once; `frames` is 0 for a picture.

        A picture is one slice, a video one for two frames (`frames` of this budget). One of 0 tokens would be refused.
        """
        rows, columns = smart_resize_many(
            height, width, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels
        )
        tokens = rows * columns // self.factor**2
        videos = np.flatnonzero(frames)
        if len(videos):
            sizes, which = np.unique(np.stack([height, width, frames])[:, videos], axis=1, return_inverse=True)
            tokens[videos] = np.asarray([self._frame_tokens(*size) for size in sizes.T.tolist()])[which.reshape(-1)]
        return tokens, np.maximum(1, -(-frames // self.frames)).astype(np.int64)

    def _frame_tokens(self, height: int, width: int, num_frames: int) -> int:
        try:
            rows, columns = self.frame_size(height, width, num_frames=num_frames)
        except (ValueError, ZeroDivisionError):
            return 0
        return rows * columns // self.factor**2
