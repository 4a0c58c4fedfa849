"""Shards as packs: what the data workers run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from mindvl.batch import PackedBatch, SkippedSample
from mindvl.cores import bind_process
from mindvl.data.chat import ChatEncoder, Supervision
from mindvl.data.pack import PATCH_STEP, pack_samples
from mindvl.data.patches import prepare_cutting
from mindvl.data.reader import ShardReader
from mindvl.data.reasons import reason_of
from mindvl.data.sample import EncodedSample, encode_sample
from mindvl.data.table import SampleTable
from mindvl.device import keep_freed_memory


class PackDataset(Dataset):
    """Maps a pack's rows of the table to a `PackedBatch`.

    A sample that fails here leaves a hole: a document of the planned length that teaches nothing, so that the pack
    keeps its shape and its cost, and every later pack its place. What was left out, and why, travels with the pack.
    """

    def __init__(
        self,
        table: SampleTable,
        encoder: ChatEncoder,
        *,
        supervise: Supervision,
        window_tokens: int,
        fixed_shapes: bool = False,
    ):
        self.table, self.encoder, self.supervise = table, encoder, supervise
        self.window_tokens, self.fixed_shapes = window_tokens, fixed_shapes
        self._reader: tuple[int, ShardReader] | None = None
        self.allocate: Callable[[tuple[int, ...]], np.ndarray] = empty_patches
        """Where patches are put; a data worker puts them where they need not be copied from."""
        prepare_cutting(table.pixels.patch)

    def __getitem__(self, rows: Sequence[int]) -> PackedBatch:
        encoded: list[EncodedSample] = []
        skipped: list[SkippedSample] = []
        hole_tokens: list[int] = []
        patches, used = self._room(rows), 0
        for row in rows:
            try:
                encoded.append(self.encode(row, out=patches[used:]))
                used += len(encoded[-1].patches)
            except (ValueError, OSError) as error:
                shard, index, position = self.table.place_of(row)
                reason = reason_of(error)
                source = self.table.source_of(row)
                skipped.append(SkippedSample(source, shard, index.key(position), reason, int(row)))
                hole_tokens.append(int(self.table.tokens[row]))
        return pack_samples(
            encoded,
            token_budget=self.table.budget.tokens,
            patch_budget=self.table.budget.patches,
            merge=self.table.pixels.merge,
            window_tokens=self.window_tokens,
            fixed_shapes=self.fixed_shapes,
            patches=patches,
            # A rank whose pack is empty runs the model all the same, on one token.
            hole_tokens=hole_tokens or ([] if encoded else [1]),
            hole_token_id=self.encoder.tokenizer.eos_token_id,
            skipped=tuple(skipped),
        )

    def _room(self, rows: Sequence[int]) -> np.ndarray:
        """Memory for the patches of a pack, as many as planned, with padding; of two frames each if it has a video."""
        planned = int(self.table.patches[list(rows)].sum())
        padding = -planned % PATCH_STEP if self.fixed_shapes else 0
        has_video = bool(self.table.has_video[list(rows)].any())
        return self.allocate((planned + padding, self.table.pixels.patch_bytes(has_video=has_video)))

    def encode(self, row: int, *, out: np.ndarray | None = None) -> EncodedSample:
        """One sample of the table. Raises ValueError with the reason when it cannot be used after all."""
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), ShardReader()  # file positions must not be shared with a forked worker
        shard, index, position = self.table.place_of(row)
        record, images = self._reader[1].sample(shard, index, position)
        messages = record["messages"]
        if kept := int(self.table.messages[row]):
            messages, images = messages[:kept], images[: int(self.table.images[row])]
        sample = encode_sample(
            index.key(position),
            self.table.source_of(row),
            messages,
            images,
            self.encoder,
            self.table.pixels,
            supervise=self.supervise,
            out=out,
            checked=True,  # the reader has compared the checksum
        )
        if len(sample.input_ids) != self.table.tokens[row]:
            raise ValueError(f"not as long as planned: {len(sample.input_ids)} tokens, {self.table.tokens[row]}")
        return sample


def empty_patches(shape: tuple[int, ...]) -> np.ndarray:
    """New memory for patches."""
    return np.empty(shape, np.uint8)


def worker_setup(_: int, *, cores: Sequence[int] | None = None) -> None:
    """Data workers decode with one thread each, on `cores` if given; the cores belong to the training step."""
    torch.set_num_threads(1)
    if cores is not None:
        bind_process(cores)
    keep_freed_memory()
    gc.freeze()  # what was imported before the fork need not be looked through, nor its pages be copied
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
