"""A document is what the renderer knows about one picture: the pixels, the questions and everything printed on it."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

METRICS = ("exact_match", "relaxed_accuracy", "box_iou")


@dataclass(frozen=True)
class Question:
    """Something asked about a picture, its exact answer, and the metric that judges a model's answer."""

    question: str
    answer: str
    metric: str = "exact_match"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}")


@dataclass(frozen=True)
class Document:
    """One picture (or, for a text-only document, none) with its exact ground truth.

    transcript: the character grid in rows of equal length, one character for each cell of the picture, space where a
        cell is empty and `#` or `*` where it holds a part of a drawing. None for free layouts and for pure drawings.
    content: the whole ground truth as one canonical string; it decides the split (see `split`).
    """

    image: Image.Image | None
    questions: list[Question]
    transcript: list[str] | None
    content: str

    def messages(self) -> list[dict[str, Any]]:
        """The chat in the format of transformers: the picture, or the transcript in its place, opens the first turn.

        The rows are joined without a newline: that is the raster order in which visual tokens come.
        """
        messages: list[dict[str, Any]] = []
        for turn, asked in enumerate(self.questions):
            content: list[dict[str, Any]] = [{"type": "text", "text": asked.question}]
            if turn == 0 and self.image is not None:
                content.insert(0, {"type": "image"})
            elif turn == 0:
                assert self.transcript is not None, "a document without a picture needs a transcript"
                content[0]["text"] = "".join(self.transcript) + "\n" + asked.question
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": asked.answer}]})
        return messages
