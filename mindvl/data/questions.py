"""Questions with known answers, read from shards: what an evaluation asks."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mindvl.data.images import open_image
from mindvl.data.sample import parse_sample
from mindvl.data.shards import find_shards, picture_members, read_member, shard_members


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


def _questions_of(source: str, path: Path) -> Iterator[tuple[int, Question]]:
    """(number within its sample, question) for all samples of a shard whose records list `questions`."""
    members = sorted(shard_members(path), key=lambda member: member.name.split(".", 1)[0])
    with path.open("rb") as file:
        for key, group in itertools.groupby(members, key=lambda member: member.name.split(".", 1)[0]):
            by_extension = {member.name.split(".", 1)[1].lower(): member for member in group}
            if "json" not in by_extension:
                continue
            record = parse_sample(read_member(file, by_extension["json"]))
            images = tuple(read_member(file, member) for member in picture_members(by_extension))
            for number, asked in enumerate(record.get("questions", [])):
                yield number, Question(key, source, asked["question"], asked["answer"], asked["metric"], images)
