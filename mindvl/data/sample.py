"""One sample, from its files to tensors: the work that a data worker does per conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mindvl.batch import ImageGrid
from mindvl.data.chat import ChatEncoder, Supervision
from mindvl.data.images import image_size, open_image, smart_resize
from mindvl.data.patches import cut_patches, repeat_frame
from mindvl.data.pixels import PixelBudget
from mindvl.data.raw import Visual, kind_of

__all__ = [
    "EncodedSample",
    "PixelBudget",
    "check_visuals",
    "cut_visuals",
    "encode_sample",
    "visual_grids",
    "widen_placeholders",
]


@dataclass(frozen=True)
class EncodedSample:
    """A conversation ready to be packed. `targets[i]` is the token after position i, or -1 where nothing is learnt."""

    key: str
    source: str
    input_ids: np.ndarray
    targets: np.ndarray
    image_positions: np.ndarray
    patches: np.ndarray
    """(patches, channels * patch * patch) bytes of all pictures, end to end; twice as many if one is a video."""
    grids: list[ImageGrid]


def encode_sample(
    key: str,
    source: str,
    messages: list[dict],
    images: Sequence[Visual],
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
    check_visuals(chat.visuals, images)
    patches, grids = cut_visuals(images, budget, out)
    ids, learnt, image_positions = widen_placeholders(
        np.asarray(chat.input_ids, np.int64),
        np.asarray(chat.supervised, bool),
        [grid.merged(budget.merge) for grid in grids],
        *encoder.placeholder_ids,
    )
    targets = np.full(len(ids), -1, np.int64)
    targets[:-1][learnt[1:]] = ids[1:][learnt[1:]]
    return EncodedSample(key, source, ids, targets, image_positions, patches, grids)


def check_visuals(placeholders: Sequence[str], images: Sequence[Visual]) -> None:
    """Raises ValueError unless each placeholder of a conversation ("image" or "video") has its picture or video."""
    if len(placeholders) != len(images):
        raise ValueError(
            f"placeholders and pictures differ in number: the conversation has {len(placeholders)} image placeholders, "
            f"the sample {len(images)} images"
        )
    for number, (kind, visual) in enumerate(zip(placeholders, images, strict=True)):
        if kind != kind_of(visual):
            raise ValueError(
                "placeholders and pictures differ in kind: "
                f"placeholder {number} is of type {kind}, the sample has a {kind_of(visual)} there"
            )


def cut_visuals(
    images: Sequence[Visual], budget: PixelBudget, out: np.ndarray | None = None
) -> tuple[np.ndarray, list[ImageGrid]]:
    """Patches of encoded pictures and videos end to end, and their grids; each is cut while it is still in the cache.

    Rows have room for two frames if there is a video, or if those of `out` have it. Raises ValueError when something
    does not decode, when the frames of a video differ in size, or when all do not fit into `out`.
    """
    has_video = any(kind_of(visual) == "video" for visual in images)
    pixels = budget.patch_bytes(has_video=has_video) if out is None else out.shape[1]
    cut, grids, used = [np.zeros((0, pixels), np.uint8)], [], 0
    for visual in images:
        begin = used
        for number, (picture, size) in enumerate(_pictures(visual, budget)):
            if number % budget.frames == 0:
                grid = ImageGrid(1, size[0] // budget.patch, size[1] // budget.patch)
                if out is not None and used + grid.patches > len(out):
                    need = used + grid.patches
                    raise ValueError(f"more patches than planned: {need}, the pack has room for {len(out)}")
                place = np.empty((grid.patches, pixels), np.uint8) if out is None else out[used : used + grid.patches]
                cut.append(place)
                used += grid.patches
            cut_patches(
                picture, patch=budget.patch, merge=budget.merge, size=size, out=place, frame=number % budget.frames
            )
        if number % budget.frames == 0:
            repeat_frame(place, patch=budget.patch)
        grids.append(ImageGrid((used - begin) // grid.patches, grid.height, grid.width))
    return np.concatenate(cut) if out is None else out[:used], grids


def visual_grids(images: Sequence[Visual], budget: PixelBudget) -> list[ImageGrid]:
    """The grids that `cut_visuals` would make, from the headers of the files alone."""
    grids = []
    for visual in images:
        if isinstance(visual, bytes):
            height, width = smart_resize(
                *image_size(visual),
                factor=budget.factor,
                min_pixels=budget.min_pixels,
                max_pixels=budget.max_pixels,
            )
        else:
            height, width = budget.frame_size(*image_size(visual[0]), num_frames=len(visual))
        slices = 1 if isinstance(visual, bytes) else -(-len(visual) // budget.frames)
        grids.append(ImageGrid(slices, height // budget.patch, width // budget.patch))
    return grids


def _pictures(visual: Visual, budget: PixelBudget) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """A picture, or the frames of a video, at least one, and the size (height, width) that each is resized to."""
    if isinstance(visual, bytes):
        picture = open_image(visual)
        yield (
            picture,
            smart_resize(
                picture.height,
                picture.width,
                factor=budget.factor,
                min_pixels=budget.min_pixels,
                max_pixels=budget.max_pixels,
            ),
        )
        return
    if not visual:
        raise ValueError("the video has 0 frames")
    first = None
    for file in visual:
        frame = open_image(file)
        first = first or frame.size
        if frame.size != first:
            raise ValueError("the frames of a video differ in size: {}x{} and {}x{}".format(*first, *frame.size))
        yield frame, budget.frame_size(frame.height, frame.width, num_frames=len(visual))


def widen_placeholders(
    ids: np.ndarray, learnt: np.ndarray, visual_tokens: list[int], *placeholder_ids: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repeat each placeholder once per visual token of its picture or video; also where these tokens are."""
    if not visual_tokens:
        return ids, learnt, np.zeros(0, np.int64)
    is_placeholder = np.logical_or.reduce([ids == token for token in placeholder_ids])
    repeats = np.ones(len(ids), np.int64)
    repeats[is_placeholder] = visual_tokens
    return np.repeat(ids, repeats), np.repeat(learnt, repeats), np.flatnonzero(np.repeat(is_placeholder, repeats))
