"""Questions with known answers, read from shards: what an evaluation asks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mindvl.data.images import open_image
from mindvl.data.reader import read_samples
from mindvl.data.storage import find_shards


@dataclass(frozen=True)
class Question:
    """One question about one or more pictures, and how its answer is judged.

    `metric` names a function of `mindvl.eval.scoring`.
    """

    key: str
    source: str
    text: str
    answer: str
    metric: str
    images: tuple[bytes, ...]

    @property
    def messages(self) -> list[dict]:
        """The question as a conversation of one turn, pictures first."""
        content = [{"type": "image"} for _ in self.images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.text}]}]

    def blanked(self) -> Question:
        """The same question about white pictures of the same size: what can be guessed without looking."""
        return replace(self, images=tuple(_blank(image) for image in self.images))


def _blank(image: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", open_image(image).size, (255, 255, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def load_questions(source: str, shards: str | Path, *, limit: int | None = None) -> list[Question]:
    """Questions of a source, at most `limit`, the first of every sample before the second of any."""
    asked = [question for path in find_shards(shards) for question in _questions_of(source, path)]
    rounds = sorted(asked, key=lambda item: item[0])  # stable: samples keep their order within a round
    chosen = [question for _, question in rounds][:limit]
    if not chosen:
        raise ValueError(f"source {source}: {shards} holds no question with a known answer")
    return chosen


def _questions_of(source: str, location: str) -> Iterator[tuple[int, Question]]:
    """(number within its sample, question) for all samples of a shard whose records list `questions`."""
    for sample in sorted(read_samples(location, refused=lambda key, reason: None), key=lambda sample: sample.key):
        for number, asked in enumerate(sample.record.get("questions", [])):
            yield (
                number,
                Question(sample.key, source, asked["question"], asked["answer"], asked["metric"], sample.images),
            )
