"""Questions with known answers, read from shards: what an evaluation asks.

A record may list them, each with the score that judges it; rendered shards do:

    {"messages": [...], "questions": [{"question": "how many?", "answer": "3", "metric": "exact_match"}]}

Where there is no list, as in imported conversations, every user turn that the assistant answers is one. It is asked
after the turns before it, with the answers that the data has there, and its own answer is to be met by `exact_match`:

    user: PICTURE which colour?    assistant: Red.      asked: the first turn                     reference "Red."
    user: which shape?             assistant: Round.    asked: all of it but the last answer      reference "Round."
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from mindvl.data.chat import check_messages
from mindvl.data.images import open_image
from mindvl.data.raw import RawSample, Visual, files_of, kind_of
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
    turns: tuple[dict[str, Any], ...] = ()
    """The conversation up to and with the question; empty where it is the pictures and the text alone."""

    @property
    def files(self) -> tuple[bytes, ...]:
        """All picture files, frames of videos among them."""
        return files_of(self.images)

    @property
    def messages(self) -> list[dict]:
        """The conversation that ends with the question; where none is given one turn, pictures and videos first."""
        if self.turns:
            return list(self.turns)
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
        raise ValueError(
            f"source {source}: {shards} holds no question with a known answer: no record lists `questions`, and no "
            "user turn is followed by an assistant's text"
        )
    return chosen


def _questions_of(source: str, location: str) -> Iterator[tuple[int, Question]]:
    """(number within its sample, question) for all samples of a shard."""
    for sample in sorted(read_samples(location, refused=lambda key, reason: None), key=lambda sample: sample.key):
        listed = isinstance(sample.record.get("questions"), list)
        yield from enumerate((_listed if listed else _answered)(source, sample))


def _listed(source: str, sample: RawSample) -> Iterator[Question]:
    for asked in sample.record["questions"]:
        yield Question(sample.key, source, asked["question"], asked["answer"], asked["metric"], sample.images)


def _answered(source: str, sample: RawSample) -> Iterator[Question]:
    """The user turns that the assistant answers; none of a conversation that no model could learn from either."""
    try:
        check_messages(sample.messages)
    except ValueError:
        return
    shown = 0
    for number, (turn, after) in enumerate(pairwise(sample.messages), start=1):
        shown += sum(part["type"] != "text" for part in _parts(turn))
        if (turn["role"], after["role"]) == ("user", "assistant"):
            before = tuple(sample.messages[:number])
            yield Question(
                sample.key, source, _text(turn), _text(after), "exact_match", sample.images[:shown], turns=before
            )


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in _parts(message) if part["type"] == "text")
