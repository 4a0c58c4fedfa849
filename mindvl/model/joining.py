"""Where pictures enter the text: visual features replace the embeddings of placeholder tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindvl.batch import ImageGrid


def placeholder_positions(
    input_ids: Int[Tensor, "*rows"],
    grids: Sequence[ImageGrid],
    *,
    image_token_id: int,
    video_token_id: int | None = None,
    merge: int,
) -> Int[Tensor, " merged"]:
    """Flat positions of the visual tokens, after checking every run of placeholders against its picture or video.

    A total that fits is not enough: two pictures whose counts are swapped would be joined to each other's text.
    Pictures and videos come in reading order. Two of a kind are separated by at least one token that is no placeholder,
    as every chat template writes them.
    """
    ids = input_ids.reshape(-1, input_ids.shape[-1])
    is_visual = ids == image_token_id
    if video_token_id is not None:
        is_visual = is_visual | (ids == video_token_id)
    before = torch.nn.functional.pad(ids, (1, 0), value=-1)[:, :-1]
    starts = (is_visual & (ids != before)).reshape(-1)
    run_of_position = starts.cumsum(0)[is_visual.reshape(-1)]
    runs = torch.bincount(run_of_position, minlength=1)[1:].tolist()
    still = (ids.reshape(-1)[starts] == image_token_id).tolist()
    for number, (run, grid) in enumerate(zip(runs, grids, strict=False)):
        if run != grid.merged(merge):
            frames = f"{grid.frames}x" if grid.frames > 1 else ""
            raise ValueError(
                f"picture {number} of {len(grids)} has {grid.merged(merge)} visual tokens "
                f"({frames}{grid.height}x{grid.width} patches), but its text holds {run} placeholders"
            )
        if still[number] and grid.frames > 1:
            raise ValueError(
                f"picture {number} of {len(grids)} is a video of {grid.frames} pairs of frames, but its placeholders "
                f"are those of a still picture"
            )
    if len(runs) != len(grids):
        raise ValueError(f"the text has {len(runs)} runs of placeholders, but {len(grids)} pictures were given")
    return is_visual.reshape(-1).nonzero()[:, 0]


def join(
    embeddings: Float[Tensor, "*rows dim"], features: Float[Tensor, "merged dim"], index: Int[Tensor, " merged"]
) -> Float[Tensor, "*rows dim"]:
    """Embeddings with row `index[i]` (of the flattened rows) replaced by visual feature i."""
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    return flat.index_copy(0, index, features.to(flat.dtype)).view(embeddings.shape)
