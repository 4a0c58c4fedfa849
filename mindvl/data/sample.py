"""One sample, from its files to tensors: the work that a data worker does per conversation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindvl.batch import ImageGrid
from mindvl.data.chat import ChatEncoder, Supervision
from mindvl.data.images import fit_to_grid, open_image
from mindvl.data.patches import CHANNELS, cut_patches


@dataclass(frozen=True)
class PixelBudget:
    """Bounds on the area of a resized picture, in pixels, and the sizes of patches it is cut into."""

    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 1280 * 28 * 28
    patch: int = 14
    merge: int = 2

    def __post_init__(self):
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}")


@dataclass(frozen=True)
class EncodedSample:
    """A conversation ready to be packed. `targets[i]` is the token after position i, or -1 where nothing is learnt."""

    key: str
    source: str
    input_ids: np.ndarray
    targets: np.ndarray
    image_positions: np.ndarray
    patches: np.ndarray
    """(patches, channels * patch * patch) bytes of all pictures, end to end."""
    grids: list[ImageGrid]


def encode_sample(
    key: str,
    source: str,
    messages: list[dict],
    images: list[bytes],
    encoder: ChatEncoder,
    budget: PixelBudget,
    *,
    supervise: Supervision,
    out: np.ndarray | None = None,
    checked: bool = False,
) -> EncodedSample:
    """Decode, resize once, cut into patches, tokenize and mask. Raises ValueError with the reason if it cannot.

    Patches are written to the beginning of `out`, the pack's own memory, where it is given. `checked` says that the
    messages are those of an index, byte for byte.
    """
    chat = encoder.encode(messages, supervise=supervise, checked=checked)
    if chat.num_images != len(images):
        raise ValueError(f"the conversation has {chat.num_images} image placeholders, the sample {len(images)} images")
    patches, grids = cut_pictures(images, budget, out)
    ids, learnt, image_positions = widen_placeholders(
        np.asarray(chat.input_ids, np.int64),
        np.asarray(chat.supervised, bool),
        [grid.merged(budget.merge) for grid in grids],
        encoder.image_token_id,
    )
    targets = np.full(len(ids), -1, np.int64)
    targets[:-1][learnt[1:]] = ids[1:][learnt[1:]]
    return EncodedSample(key, source, ids, targets, image_positions, patches, grids)


def cut_pictures(
    images: list[bytes], budget: PixelBudget, out: np.ndarray | None = None
) -> tuple[np.ndarray, list[ImageGrid]]:
    """Patches of encoded pictures end to end, and their grids; each is cut while it is still in the cache.

    Raises ValueError when one does not decode, or when they do not fit into `out`.
    """
    cut, grids, used = [], [], 0
    for data in images:
        picture = fit_to_grid(
            open_image(data),
            patch=budget.patch,
            merge=budget.merge,
            min_pixels=budget.min_pixels,
            max_pixels=budget.max_pixels,
        )
        grid = ImageGrid(1, picture.height // budget.patch, picture.width // budget.patch)
        if out is not None and used + grid.patches > len(out):
            raise ValueError(f"more patches than planned: {used + grid.patches}, the pack has room for {len(out)}")
        place = None if out is None else out[used : used + grid.patches]
        cut.append(cut_patches(picture, patch=budget.patch, merge=budget.merge, out=place))
        grids.append(grid)
        used += grid.patches
    if out is not None:
        return out[:used], grids
    return np.concatenate([*cut, np.zeros((0, CHANNELS * budget.patch**2), np.uint8)]), grids


def widen_placeholders(
    ids: np.ndarray, learnt: np.ndarray, visual_tokens: list[int], image_token_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repeat each image placeholder once per visual token of its picture; also where these tokens are."""
    is_image = ids == image_token_id
    if not visual_tokens:
        return ids, learnt, np.flatnonzero(is_image)
    repeats = np.ones(len(ids), np.int64)
    repeats[is_image] = visual_tokens
    ids = np.repeat(ids, repeats)
    return ids, np.repeat(learnt, repeats), np.flatnonzero(ids == image_token_id)
