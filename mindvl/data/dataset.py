"""Shards as packs: what the data workers run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mindvl.batch import PackedBatch
from mindvl.data.chat import ChatEncoder, Supervision
from mindvl.data.images import MAX_ASPECT_RATIO, smart_resize
from mindvl.data.pack import pack_samples
from mindvl.data.plan import PackBudget, PackPlan
from mindvl.data.sample import EncodedSample, PixelBudget, encode_sample, parse_sample
from mindvl.data.shards import ShardIndex, ShardReader, find_shards, load_indexes


class ShardSamples:
    """All usable samples of several sources, as one table; samples that cannot be used are counted by reason."""

    def __init__(
        self,
        sources: dict[str, str],
        encoder: ChatEncoder,
        pixels: PixelBudget,
        budget: PackBudget,
    ):
        self.encoder, self.pixels, self.budget = encoder, pixels, budget
        self.names = list(sources)
        self.paths: list[Path] = []
        self.indexes: list[ShardIndex] = []
        self.skipped: Counter[str] = Counter()
        """Samples left out before training, by "source: reason"."""
        shard: list[np.ndarray] = []
        row: list[np.ndarray] = []
        costs: tuple[list[np.ndarray], ...] = ([], [], [])  # tokens, patches, images
        starts = [0]
        for name, pattern in sources.items():
            for path in find_shards(pattern):
                (index,) = load_indexes([path], encoder)
                counts = _sample_costs(index, pixels)
                reasons = self._refuse(index, counts)
                good = np.flatnonzero([reason == "" for reason in reasons])
                self.skipped.update(f"{name}: {reason}" for reason in reasons if reason)
                shard.append(np.full(len(good), len(self.paths)))
                row.append(good)
                for column, values in zip(costs, counts, strict=True):
                    column.append(values[good])
                self.paths.append(path)
                self.indexes.append(index)
            starts.append(sum(len(part) for part in row))
        self.shard, self.row = np.concatenate(shard), np.concatenate(row)
        self.tokens, self.patches, self.images = (np.concatenate(column) for column in costs)
        self.source_starts = np.asarray(starts)
        for name, size in zip(self.names, np.diff(self.source_starts), strict=True):
            if size == 0:
                left_out = {key: count for key, count in self.skipped.items() if key.startswith(f"{name}: ")}
                raise ValueError(f"source {name} has 0 usable samples in {sources[name]}; left out: {left_out}")

    def _refuse(self, index: ShardIndex, counts) -> list[str]:
        tokens, patches, images = counts
        reasons = [str(problem) for problem in index.problem]
        for number, reason in enumerate(reasons):
            if reason:
                continue
            if patches[number] < 0:
                reasons[number] = f"a picture's aspect ratio is over {MAX_ASPECT_RATIO}"
            elif tokens[number] > self.budget.tokens:
                reasons[number] = f"longer than the sequence of {self.budget.tokens} tokens"
            elif patches[number] > self.budget.patches:
                reasons[number] = f"more than the budget of {self.budget.patches} patches"
            elif images[number] > self.budget.images:
                reasons[number] = f"more than {self.budget.images} images"
        return reasons

    def plan(self, weights: dict[str, float], *, seed: int) -> PackPlan:
        """The plan over these samples; `weights` are passes per round by source."""
        return PackPlan(
            tokens=self.tokens,
            patches=self.patches,
            images=self.images,
            source_starts=self.source_starts,
            weights=np.asarray([weights[name] for name in self.names], np.float64),
            budget=self.budget,
            seed=seed,
        )

    def source_of(self, sample: int) -> str:
        return self.names[int(np.searchsorted(self.source_starts, sample, side="right")) - 1]

    def key_of(self, sample: int) -> str:
        return str(self.indexes[self.shard[sample]].key[self.row[sample]])

    def read(self, sample: int, reader: ShardReader) -> tuple[dict, list[bytes]]:
        """The record and the picture files of a sample."""
        path, index, row = self.paths[self.shard[sample]], self.indexes[self.shard[sample]], self.row[sample]
        record = parse_sample(reader.read(path, int(index.record_offset[row]), int(index.record_bytes[row])))
        pictures = range(int(index.first_image[row]), int(index.first_image[row + 1]))
        return record, [reader.read(path, int(index.image_offset[i]), int(index.image_bytes[i])) for i in pictures]


def _sample_costs(index: ShardIndex, pixels: PixelBudget) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per sample: tokens, patches (negative when a picture cannot be resized) and images."""
    factor = pixels.patch * pixels.merge
    area = np.zeros(len(index.image_height), np.int64)
    for number, size in enumerate(zip(index.image_height.tolist(), index.image_width.tolist(), strict=True)):
        try:
            height, width = smart_resize(
                *size, factor=factor, min_pixels=pixels.min_pixels, max_pixels=pixels.max_pixels
            )
        except (ValueError, ZeroDivisionError):
            area[number] = -(10**12)
        else:
            area[number] = height * width // factor**2
    total = np.concatenate([[0], np.cumsum(area)])
    merged = total[index.first_image[1:]] - total[index.first_image[:-1]]
    images = np.diff(index.first_image)
    return index.text_tokens - images + merged, merged * pixels.merge**2, images


class PackDataset(Dataset):
    """Maps a pack's sample rows to a `PackedBatch`. A sample that fails here is left out and counted by reason."""

    def __init__(
        self, samples: ShardSamples, *, supervise: Supervision, window_tokens: int, fixed_shapes: bool = False
    ):
        self.samples, self.supervise = samples, supervise
        self.window_tokens, self.fixed_shapes = window_tokens, fixed_shapes
        self._reader: tuple[int, ShardReader] | None = None

    def __getitem__(self, rows: Sequence[int]) -> PackedBatch:
        encoded: list[EncodedSample] = []
        skipped: Counter[str] = Counter()
        for row in rows:
            try:
                encoded.append(self._encode(row))
            except ValueError as error:
                skipped[f"{self.samples.source_of(row)}: {str(error).split(':')[0]}"] += 1
        return pack_samples(
            encoded or [self._hole()],
            token_budget=self.samples.budget.tokens,
            merge=self.samples.pixels.merge,
            window_tokens=self.window_tokens,
            fixed_shapes=self.fixed_shapes,
            skipped=skipped,
        )

    def _encode(self, row: int) -> EncodedSample:
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), ShardReader()  # file positions must not be shared with a forked worker
        record, images = self.samples.read(row, self._reader[1])
        return encode_sample(
            self.samples.key_of(row),
            self.samples.source_of(row),
            record["messages"],
            images,
            self.samples.encoder,
            self.samples.pixels,
            supervise=self.supervise,
        )

    def _hole(self) -> EncodedSample:
        """One token that teaches nothing: the pack keeps its place in the plan when all its samples failed."""
        ids = np.asarray([self.samples.encoder.tokenizer.eos_token_id], np.int64)
        none = np.zeros(0, np.int64)
        return EncodedSample("hole", "hole", ids, np.full(1, -1, np.int64), none, [], [])


class PackSampler(Sampler[list[int]]):
    """This rank's packs of the plan, from `start` on, `count` in all with those before `start`."""

    def __init__(self, plan: PackPlan, *, count: int, start: int = 0, rank: int = 0, world_size: int = 1):
        self.plan, self.count, self.start, self.rank, self.world_size = plan, count, start, rank, world_size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        remaining = self.count - self.start
        packs = self.plan.packs(self.start * self.world_size)
        for number, rows in enumerate(packs):
            if number >= remaining * self.world_size:
                return
            if number % self.world_size == self.rank:
                yield rows.tolist()


def worker_setup(_: int) -> None:
    """Data workers decode with one thread each; the cores belong to the training step."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
