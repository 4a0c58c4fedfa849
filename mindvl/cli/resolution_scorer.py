"""A saved MindVL as the scorer of a resolution search: one model in memory, asked at whatever budget comes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import xxhash
from mindvl_callbacks.resolution_samples import Budget, Grid, SearchSample

from mindvl.cli.resolution_questions import grid_rule
from mindvl.device import device_of
from mindvl.phases.answering import Answerer, load_answerer
from mindvl.phases.decoding import Decoding

_SAY_EVERY_S = 15.0


class AnswererScore:
    """Scores samples whose content is `Asked` by the model's greedy answers.

    Args:
        answerer: gives model and tokenizer; its own budget plays no part.
        batch_size: prompts that are answered at once, at most.
        progress: say on stderr, now and then, how many samples were scored.
    """

    def __init__(self, answerer: Answerer, *, batch_size: int = 64, progress: bool = False):
        self.answerer, self.batch_size, self.progress = answerer, batch_size, progress
        vision = answerer.model.config.vision_config
        self._grid_of = grid_rule(vision.patch_size * vision.spatial_merge_size)
        self.num_scored, self._start = 0, time.perf_counter()
        self._said = self._start

    @property
    def default(self) -> Budget:
        """The budget that the model was saved with."""
        return self.answerer.min_pixels, self.answerer.max_pixels

    def grid_of(self, sample: SearchSample, budget: Budget) -> Grid:
        return self._grid_of(sample, budget)

    def __call__(self, samples: Sequence[SearchSample], budget: Budget) -> list[float]:
        """Scores, 0 to 1, in the order of the samples."""
        low, high = budget
        answerer = Answerer(self.answerer.model, self.answerer.tokenizer, min_pixels=low, max_pixels=high)
        asked = [sample for sample in samples if not sample.content.failure]
        texts: dict[int, list[str]] = {}
        for length in sorted({sample.content.max_new_tokens for sample in asked}):
            mine = [sample for sample in asked if sample.content.max_new_tokens == length]
            prompts = [prompt for sample in mine for prompt in sample.content.prompts]
            answers = iter(answerer.answer(prompts, Decoding(max_new_tokens=length), batch_size=self.batch_size))
            texts |= {id(sample): [next(answers).text for _ in sample.content.prompts] for sample in mine}
        self._say(len(samples))
        unanswered: list[str | None] = [None]
        return [
            sample.content.judge(texts.get(id(sample), unanswered * len(sample.content.prompts))) for sample in samples
        ]

    def _say(self, num_samples: int) -> None:
        self.num_scored += num_samples
        now = time.perf_counter()
        if self.progress and now - self._said > _SAY_EVERY_S:
            self._said = now
            print(f"{self.num_scored} samples scored in {now - self._start:.0f} s", file=sys.stderr, flush=True)


def load_scorer(folder: Path, *, batch_size: int = 64, progress: bool = False) -> AnswererScore:
    """The scorer of a saved model, on the accelerator that is there."""
    answerer = load_answerer(folder)
    answerer.model.to(device_of("auto"))
    return AnswererScore(answerer, batch_size=batch_size, progress=progress)


def saved_fingerprint(folder: Path, *settings: object) -> str:
    """Hash of a saved model's files, weights and tokenizer included, and of the settings that its answers depend on."""
    digest = xxhash.xxh3_128(json.dumps(settings, default=str).encode())
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()
