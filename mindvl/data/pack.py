"""Encoded samples laid end to end: the last step of a data worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mindvl.batch import PackedBatch, VisionInputs
from mindvl.data.sample import EncodedSample
from mindvl.ops.vision_layout import vision_layout


def pack_samples(
    samples: Sequence[EncodedSample],
    *,
    token_budget: int,
    merge: int,
    window_tokens: int,
    skipped: dict[str, int] | None = None,
) -> PackedBatch:
    """One pack of `samples`, in order, with explicit bounds and all vision metadata.

    Raises ValueError when they hold more tokens than the budget: a plan never lets that happen.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    if sum(lengths) > token_budget:
        raise ValueError(f"the samples hold {sum(lengths)} tokens, the pack's budget is {token_budget}")
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    targets = _concatenate([sample.targets for sample in samples])
    supervised = np.flatnonzero(targets >= 0)
    image_index = _concatenate(
        [sample.image_positions + start for sample, start in zip(samples, starts, strict=False)]
    )
    return PackedBatch(
        input_ids=torch.from_numpy(_concatenate([sample.input_ids for sample in samples])),
        position_ids=torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        doc_lengths=tuple(lengths),
        supervised_index=torch.from_numpy(supervised),
        targets=torch.from_numpy(targets[supervised]),
        image_index=torch.from_numpy(image_index),
        vision=_pack_pictures(samples, merge=merge, window_tokens=window_tokens),
        token_budget=token_budget,
        keys=tuple(sample.key for sample in samples),
        sources=tuple(sample.source for sample in samples),
        skipped=dict(skipped or {}),
    )


def _pack_pictures(samples: Sequence[EncodedSample], *, merge: int, window_tokens: int) -> VisionInputs | None:
    grids = [grid for sample in samples for grid in sample.grids]
    if not grids:
        return None
    layout = vision_layout(grids, merge=merge, window_tokens=window_tokens)
    patches = np.concatenate([patches for sample in samples for patches in sample.patches])
    return VisionInputs(
        patches=torch.from_numpy(patches),
        grid_thw=torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids]),
        position_ids=torch.from_numpy(layout.position_ids),
        window_index=torch.from_numpy(layout.window_index),
        restore_index=torch.from_numpy(layout.restore_index),
        image_lengths=layout.image_lengths,
        window_lengths=layout.window_lengths,
    )


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
