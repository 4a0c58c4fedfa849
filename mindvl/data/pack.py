"""Encoded samples laid end to end: the last step of a data worker.

Packs of fixed shape: the matrix kernels of AMX processors and of NPUs are made per shape, so a new number of rows in
every step costs more than the arithmetic. With `fixed_shapes`, tokens are filled up to the budget with a document that
teaches nothing, patches and targets up to the next multiple of a step, so that a run meets a handful of shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mindvl.batch import PackedBatch, SkippedSample, VisionInputs
from mindvl.data.patches import join_patches
from mindvl.data.sample import EncodedSample
from mindvl.ops.vision_layout import vision_layout

PATCH_STEP, TARGET_STEP = 512, 128
"""Patches and targets of a pack of fixed shape are multiples of these."""


def pack_samples(
    samples: Sequence[EncodedSample],
    *,
    token_budget: int,
    merge: int,
    window_tokens: int,
    fixed_shapes: bool = False,
    patch_budget: int | None = None,
    patches: np.ndarray | None = None,
    hole_tokens: Sequence[int] = (),
    hole_token_id: int = 0,
    skipped: tuple[SkippedSample, ...] = (),
) -> PackedBatch:
    """One pack of `samples`, in order, with explicit bounds and all vision metadata.

    `patches` is memory that the samples' patches already lie in, end to end, with room for padding. `hole_tokens` are
    lengths of documents that teach nothing, in the place of samples that could not be used. Raises ValueError when all
    together are longer than the budget: a plan never lets that happen.
    """
    num_tokens = sum(len(sample.input_ids) for sample in samples)
    used_tokens = num_tokens + sum(hole_tokens)
    if used_tokens > token_budget:
        raise ValueError(f"the samples hold {used_tokens} tokens, the pack's budget is {token_budget}")
    silent = list(hole_tokens) + ([token_budget - used_tokens] if fixed_shapes and used_tokens < token_budget else [])
    ids = [sample.input_ids for sample in samples] + [np.full(length, hole_token_id, np.int64) for length in silent]
    targets = [sample.targets for sample in samples] + [np.full(length, -1, np.int64) for length in silent]
    lengths = [len(document) for document in ids]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    target = _concatenate(targets)
    supervised = np.flatnonzero(target >= 0)
    padding = -len(supervised) % TARGET_STEP if fixed_shapes else 0
    image_index = _concatenate([sample.image_positions + start for sample, start in zip(samples, starts, strict=False)])
    grids = [grid for sample in samples for grid in sample.grids]
    return PackedBatch(
        input_ids=torch.from_numpy(_concatenate(ids)),
        position_ids=torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        doc_lengths=tuple(lengths),
        supervised_index=torch.from_numpy(_pad(supervised, padding)),
        targets=torch.from_numpy(_pad(target[supervised], padding, -100)),
        image_index=torch.from_numpy(image_index),
        vision=_pack_pictures(samples, patches, merge=merge, window_tokens=window_tokens, fixed_shapes=fixed_shapes),
        num_tokens=num_tokens,
        num_supervised=len(supervised),
        num_patches=sum(grid.patches for grid in grids),
        token_budget=token_budget,
        keys=tuple(sample.key for sample in samples),
        sources=tuple(sample.source for sample in samples),
        skipped=skipped,
        hole_tokens=sum(hole_tokens),
        patch_budget=patch_budget,
    )


def _pack_pictures(
    samples: Sequence[EncodedSample],
    patches: np.ndarray | None,
    *,
    merge: int,
    window_tokens: int,
    fixed_shapes: bool,
) -> VisionInputs | None:
    grids = [grid for sample in samples for grid in sample.grids]
    if not grids:
        return None
    layout = vision_layout(grids, merge=merge, window_tokens=window_tokens)
    num_patches = sum(grid.patches for grid in grids)
    padding = -num_patches % PATCH_STEP if fixed_shapes else 0
    if patches is None:
        pixels = max(sample.patches.shape[1] for sample in samples)
        patches = np.empty((num_patches + padding, pixels), np.uint8)
        join_patches([sample.patches for sample in samples], patches)
    patches = patches[: num_patches + padding]
    patches[num_patches:] = 0
    merged = len(layout.window_index)
    tail = (padding,) if padding else ()  # one more attention segment, which no visual token is read from
    return VisionInputs(
        patches=torch.from_numpy(patches),
        grid_thw=torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids]),
        position_ids=torch.from_numpy(_pad(layout.position_ids, padding)),
        window_index=torch.from_numpy(np.append(layout.window_index, np.arange(merged, merged + padding // merge**2))),
        restore_index=torch.from_numpy(layout.restore_index),
        image_lengths=layout.image_lengths + tail,
        window_lengths=layout.window_lengths + tail,
    )


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _pad(array: np.ndarray, count: int, value: int = 0) -> np.ndarray:
    """`count` rows of `value` more; np.pad takes its time also where there is nothing to add."""
    if count == 0:
        return array
    return np.concatenate([array, np.full((count, *array.shape[1:]), value, array.dtype)])
