"""All usable samples of a mixture as one table: what a plan is made of, and where each sample lies.

A row costs 33 bytes; keys, offsets and picture sizes stay in the shards' indexes, which are opened when a sample is
read. What cannot be used is left out here, before training, and counted by source, shard and reason. A conversation
longer than a pack is dropped or cut after an earlier answer, never inside a picture or video, as `too_long` says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mindvl.data.cost import CostModel
from mindvl.data.images import MAX_ASPECT_RATIO
from mindvl.data.index import ShardIndex, read_index
from mindvl.data.indexing import load_index
from mindvl.data.mixture import Earlier, Source, WeighBy, mix
from mindvl.data.pixels import PixelBudget
from mindvl.data.plan import PackBudget, PackPlan
from mindvl.data.storage import find_shards, index_location

TooLong = Literal["drop", "cut"]
"""What happens to a sample that is larger than a pack: it is left out, or cut after an earlier answer."""

_OPEN_INDEXES = 256


@dataclass(frozen=True)
class LeftOut:
    """Why samples of a shard are not in the table."""

    source: str
    shard: str
    reason: str
    too_large: bool = False
    """Whether the samples are good ones that the budgets of a pack leave no room for."""


@dataclass(frozen=True)
class _Columns:
    """Rows that one shard adds to the table."""

    row: np.ndarray
    messages: np.ndarray
    tokens: np.ndarray
    patches: np.ndarray
    images: np.ndarray
    """Pictures and videos."""
    has_video: np.ndarray
    supervised: np.ndarray
    vision_cost: np.ndarray


@dataclass(frozen=True)
class _Shown:
    """Pictures and videos of a shard, end to end, and running sums over them: entry i is about the first i."""

    first: np.ndarray
    """Samples + 1: those of sample i are rows first[i] to first[i+1]."""
    visual_tokens: np.ndarray
    odd: np.ndarray
    """How many are too narrow."""
    videos: np.ndarray
    cost: np.ndarray


class SampleTable:
    """Columns over the samples of several sources.

    Raises ValueError when a source has no usable sample, or a shard no index for this tokenizer.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        *,
        tokenizer: str,
        pixels: PixelBudget,
        budget: PackBudget,
        cost: CostModel | None = None,
        supervise: str = "answers",
        too_long: TooLong = "drop",
        index_folder: str | None = None,
    ):
        self.sources, self.pixels, self.budget = sources, pixels, budget
        self.cost, self.too_long, self.index_folder = cost or CostModel(), too_long, index_folder
        self._supervise = supervise
        self.names = list(sources)
        self.shards: list[str] = []
        self.left_out: Counter[LeftOut] = Counter()
        self.examples: dict[LeftOut, str] = {}
        """The key of the first sample of each."""
        self.cut_samples: Counter[str] = Counter()
        """Conversations that were cut, by source."""
        self.checksums: dict[str, str] = {}
        """xxh3-128 of each shard, by location."""
        parts: list[_Columns] = []
        shard: list[np.ndarray] = []
        starts = [0]
        for name, source in sources.items():
            for location in find_shards(source.shards, index_folder=index_folder):
                index = load_index(location, tokenizer, folder=index_folder)
                if index is None:
                    raise ValueError(f"shard {location} has no index for this tokenizer: run `mindvl data index`")
                part = self._usable(name, location, index)
                shard.append(np.full(len(part.row), len(self.shards), np.int32))
                parts.append(part)
                self.shards.append(location)
                self.checksums[location] = index.facts.checksum
            starts.append(sum(len(part.row) for part in parts))
            if starts[-1] == starts[-2]:
                why = "; ".join(self.left_out_lines(name)) or "its shards hold none"
                raise ValueError(f"source {name} has 0 usable samples in {source.shards}: {why}")
        self.starts = np.asarray(starts, np.int64)
        self.shard = np.concatenate(shard)
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _Columns.__dataclass_fields__
        }
        self.row, self.messages, self.tokens = columns["row"], columns["messages"], columns["tokens"]
        self.patches, self.images, self.has_video = columns["patches"], columns["images"], columns["has_video"]
        self.supervised, self.vision_cost = columns["supervised"], columns["vision_cost"]
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._open_index)

    def __len__(self) -> int:
        return len(self.row)

    def _usable(self, source: str, location: str, index: ShardIndex) -> _Columns:
        """The rows of a shard that fit into a pack, perhaps after a cut; the others are counted."""
        shown = self._shown(index)
        first, last = shown.first[:-1], shown.first[1:]
        images, odd = last - first, shown.odd[last] - shown.odd[first]
        visual = shown.visual_tokens[last] - shown.visual_tokens[first]
        tokens = index.text_tokens - images + visual
        supervised = index.answer_tokens if self._supervise == "answers" else index.spoken_tokens
        columns = _Columns(
            row=np.arange(len(index), dtype=np.int32),
            messages=np.zeros(len(index), np.int32),
            tokens=tokens.astype(np.int32),
            patches=(visual * self.pixels.merge**2).astype(np.int32),
            images=images.astype(np.int32),
            has_video=shown.videos[last] > shown.videos[first],
            supervised=supervised.astype(np.int32),
            vision_cost=(shown.cost[last] - shown.cost[first]).astype(np.float32),
        )
        reasons = np.asarray(index.facts.problems, object)[index.problem]
        budget = self.budget
        too_large = {
            f"longer than the sequence of {budget.tokens} tokens": columns.tokens > budget.tokens,
            f"more than the budget of {budget.patches} patches": columns.patches > budget.patches,
            f"more than {budget.images} images": columns.images > budget.images,
        }
        too_narrow = {f"a picture's aspect ratio is over {MAX_ASPECT_RATIO}": odd > 0}
        for reason, wrong in (too_narrow | too_large).items():
            reasons[wrong & (reasons == "")] = reason
        if self.too_long == "cut":
            self._cut(source, index, columns, reasons, odd, shown)
        for reason, count in Counter(reasons[reasons != ""]).items():
            item = LeftOut(source, location, reason, too_large=reason in too_large)
            self.left_out[item] += count
            self.examples.setdefault(item, index.key(int(np.argmax(reasons == reason))))
        good = np.flatnonzero(reasons == "")
        return _Columns(*(getattr(columns, name)[good] for name in _Columns.__dataclass_fields__))

    def left_out_lines(self, source: str) -> list[str]:
        """What was left out of a source in words, one line for each reason: how many, and which of them came first."""
        counts: Counter[str] = Counter()
        first: dict[str, LeftOut] = {}
        for item, count in self.left_out.items():
            if item.source == source:
                counts[item.reason] += count
                first.setdefault(item.reason, item)
        return [
            f"left out {count} samples of {source}: {reason} (such as {self.examples[first[reason]]} in "
            f"{first[reason].shard})"
            for reason, count in counts.most_common()
        ]

    def _shown(self, index: ShardIndex) -> _Shown:
        """What the pictures and videos of a shard become under the pixel budget."""
        starts = np.flatnonzero(index.image_frame <= 0)
        num_files = np.diff(starts, append=len(index.image_frame))
        is_video = index.image_frame[starts] == 0
        tokens, slices = self.pixels.slices(
            index.image_height[starts], index.image_width[starts], np.where(is_video, num_files, 0)
        )
        columns = (tokens * slices, tokens == 0, is_video, self.cost.vision(tokens * self.pixels.merge**2) * slices)
        return _Shown(np.searchsorted(starts, index.first_image), *(_running(column) for column in columns))

    def _cut(self, source, index: ShardIndex, columns: _Columns, reasons, odd, shown: _Shown) -> None:
        """Shorten conversations that are too large to their longest beginning, answer included, that fits."""
        budget = self.budget
        for row in np.flatnonzero((reasons != "") & (index.problem == 0) & (odd == 0)).tolist():
            for cut in range(int(index.first_cut[row + 1]) - 1, int(index.first_cut[row]) - 1, -1):
                images, first = int(index.cut_images[cut]), int(shown.first[row])
                last = first + images
                visual = int(shown.visual_tokens[last] - shown.visual_tokens[first])
                tokens, patches = int(index.cut_tokens[cut]) - images + visual, visual * self.pixels.merge**2
                if tokens > budget.tokens or patches > budget.patches or images > budget.images:
                    continue
                learnt = index.cut_answers if self._supervise == "answers" else index.cut_spoken
                columns.messages[row] = index.cut_messages[cut]
                columns.tokens[row], columns.patches[row], columns.images[row] = tokens, patches, images
                columns.has_video[row] = shown.videos[last] > shown.videos[first]
                columns.supervised[row] = learnt[cut]
                columns.vision_cost[row] = shown.cost[last] - shown.cost[first]
                reasons[row] = ""
                self.cut_samples[source] += 1
                break

    def plan(self, *, weigh_by: WeighBy, packs_per_step: int, seed: int, earlier: Earlier | None = None) -> PackPlan:
        """The plan over these samples, of a run that may have followed others `earlier`."""
        sources = list(self.sources.values())
        mixture = mix(sources, self.starts, self.tokens, weigh_by=weigh_by, seed=seed, earlier=earlier)
        return PackPlan(
            tokens=self.tokens,
            patches=self.patches,
            images=self.images,
            language_cost=self.cost.language(self.tokens).astype(np.float32),
            vision_cost=self.vision_cost,
            mixture=mixture,
            budget=self.budget,
            packs_per_step=packs_per_step,
            seed=seed,
        )

    def source_of(self, sample: int) -> str:
        return self.names[int(np.searchsorted(self.starts, sample, side="right")) - 1]

    def place_of(self, sample: int) -> tuple[str, ShardIndex, int]:
        """Shard, its index and the row in it."""
        shard = int(self.shard[sample])
        return self.shards[shard], self._index(shard), int(self.row[sample])

    def key_of(self, sample: int) -> str:
        _, index, row = self.place_of(sample)
        return index.key(row)

    def _open_index(self, shard: int) -> ShardIndex:
        location = self.shards[shard]
        index = read_index(index_location(location, self.index_folder))
        if index is None or index.facts.checksum != self.checksums[location]:
            raise RuntimeError(f"the index of {location} was changed or removed while a run reads it")
        return index

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._open_index)


def _running(column: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values; truth values are counted."""
    sums = np.cumsum(column)
    return np.concatenate([np.zeros(1, sums.dtype), sums])
