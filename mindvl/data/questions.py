"""Questions with known answers, read from shards: what an evaluation asks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mindvl.data.images import open_image
from mindvl.data.raw import Visual, files_of, kind_of
from mindvl.data.reader import read_samples
from mindvl.data.storage import find_shards


@dataclass(frozen=True)
class Question:
    """One question about pictures or videos, and how its answer is judged.

    `metric` names a function of `mindvl.eval.scoring`.
    """

    key: str
    source: str
    text: str
    answer: str
    metric: str
    images: tuple[Visual, ...]

    @property
    def files(self) -> tuple[bytes, ...]:
        """All picture files, frames of videos among them."""
        return files_of(self.images)

    @property
    def messages(self) -> list[dict]:
        """The question as a conversation of one turn, pictures and videos first."""
        content = [{"type": kind_of(image)} for image in self.images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.text}]}]

    def blanked(self) -> Question:
        """The same question about white pictures of the same size: what can be guessed without looking."""
        return replace(self, images=tuple(_blank(image) for image in self.images))


def _blank(image: Visual) -> Visual:
    return _blank_picture(image) if isinstance(image, bytes) else tuple(_blank_picture(frame) for frame in image)


def _blank_picture(image: bytes) -> bytes:
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
