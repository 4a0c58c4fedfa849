"""A data recipe: where samples come from, which steps they pass, where they go.

    out: data/warmup
    seed: 0
    style: {cell_pixels: 0}                                   # of all rendered sources
    sources:
      captions: {render: {family: caption, train: 2000, test: 100}, category: captions}
      llava:
        import: {format: llava, path: downloads/blip_laion_cc_sbu_558k.json, images: downloads/images}
        optional: true                                        # left out, and reported, while the file is not there
        steps: [{text_length: {max_chars: 400}}]              # of this source alone, before the common ones
      earlier: {shards: data/earlier/*.tar, split: validation}
    steps:
      - resolution: {min_side_pixels: 28}
      - duplicate_pictures: {}

The same recipe gives the same samples in the same shards, for any number of workers and for both runners.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPLITS = ("test", "validation", "train")
"""In the order of precedence: where two samples are duplicates, the held-out one stays and training loses its twin."""


@dataclass(frozen=True)
class StepCall:
    """A step with all its arguments, as one entry of a recipe's list."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class DataSource:
    """One stream of samples. `kind` is render, import or shards, and `settings` what the recipe says under that key."""

    name: str
    kind: str
    settings: dict[str, Any]
    category: str
    """What the report sums up by: captions, grounding, ocr, ...; the source's own name if the recipe says nothing."""
    split: str
    """Of imported samples and of samples from shards. Rendered sources have counts for each split."""
    optional: bool
    limit: int | None
    """At most so many samples, for each split of a rendered source."""
    steps: tuple[StepCall, ...]


@dataclass(frozen=True)
class DataRecipe:
    """A checked recipe."""

    out: Path
    seed: int
    image_format: str
    samples_per_shard: int
    style: dict[str, Any]
    sources: tuple[DataSource, ...]
    steps: tuple[StepCall, ...]
    samples: int | None = None
    """At most so many samples of each source and split: a trial."""

    def steps_of(self, source: DataSource) -> tuple[StepCall, ...]:
        """A source's own steps, then the common ones."""
        return (*source.steps, *self.steps)

    def limit_of(self, source: DataSource) -> int | None:
        limits = [limit for limit in (source.limit, self.samples) if limit is not None]
        return min(limits, default=None)

    def settings(self) -> dict[str, Any]:
        """All that decides which samples are made."""
        return {key: value for key, value in asdict(self).items() if key != "out"}

    def fingerprint(self, *more: Any) -> str:
        """The same for two recipes exactly when they make the same samples; where they go does not matter."""
        canonical = json.dumps([self.settings(), *more], sort_keys=True, default=str)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()
