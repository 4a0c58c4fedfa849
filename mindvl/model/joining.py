"""Where pictures enter the text: visual features replace the embeddings of placeholder tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindvl.batch import ImageGrid


def placeholder_positions(
    input_ids: Int[Tensor, "*rows"], grids: Sequence[ImageGrid], *, image_token_id: int, merge: int
) -> Int[Tensor, " merged"]:
    """Flat positions of the visual tokens, after checking every run of placeholders against its picture.

    A total that fits is not enough: two pictures whose counts are swapped would be joined to each other's text.
    Pictures are separated by at least one token that is no placeholder, as every chat template writes them.
    """
    is_image = input_ids.reshape(-1, input_ids.shape[-1]) == image_token_id
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    run_of_position = starts.reshape(-1).cumsum(0)[is_image.reshape(-1)]
    runs = torch.bincount(run_of_position, minlength=1)[1:].tolist()
    for number, (run, grid) in enumerate(zip(runs, grids, strict=False)):
        if run != grid.merged(merge):
            raise ValueError(
                f"picture {number} of {len(grids)} has {grid.merged(merge)} visual tokens "
                f"({grid.height}x{grid.width} patches), but its text holds {run} placeholders"
            )
    if len(runs) != len(grids):
        raise ValueError(f"the text has {len(runs)} runs of placeholders, but {len(grids)} pictures were given")
    return is_image.reshape(-1).nonzero()[:, 0]


def join(
    embeddings: Float[Tensor, "*rows dim"], features: Float[Tensor, "merged dim"], index: Int[Tensor, " merged"]
) -> Float[Tensor, "*rows dim"]:
    """Embeddings with row `index[i]` (of the flattened rows) replaced by visual feature i."""
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    return flat.index_copy(0, index, features.to(flat.dtype)).view(embeddings.shape)
