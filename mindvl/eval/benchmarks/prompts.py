"""The words in which the two harnesses ask, and where pictures stand among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
SINGLE_WORD = "\nAnswer the question with a single word."
LETTER = "Answer with the option's letter from the given choices directly."
SELECT = "Please select the correct answer from the options above. \n"

_IMAGE_MARK = re.compile(r"<image (\d+)>")


def pictures_first(num_images: int, text: str) -> list[dict[str, Any]]:
    """One turn: all pictures, then the text."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in range(num_images)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def pictures_in_place(
    images: tuple[bytes, ...], text: str, *, strip: bool
) -> tuple[list[dict[str, Any]], tuple[bytes, ...]]:
    """One turn with picture n wherever the text says "<image n>", and the pictures in that order.

    A picture that is named twice comes twice; without marks all pictures come first. `strip` takes white space off the
    pieces of text. Raises ValueError for a mark without its picture.
    """
    pieces = _IMAGE_MARK.split(text)
    if len(pieces) == 1:
        return pictures_first(len(images), text), images
    content: list[dict[str, Any]] = []
    ordered: list[bytes] = []
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            if piece.strip():
                content.append({"type": "text", "text": piece.strip() if strip else piece})
            continue
        if not 1 <= int(piece) <= len(images):
            raise ValueError(f"the text names picture {piece}, the row has {len(images)}")
        content.append({"type": "image"})
        ordered.append(images[int(piece) - 1])
    return [{"role": "user", "content": content}], tuple(ordered)


def option_lines(options: Mapping[str, str]) -> str:
    """ "A. red" and so on, a line each."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def vlmevalkit_choice(question: str, options: Mapping[str, str], hint: str | None = None) -> str:
    """VLMEvalKit's prompt of every multiple-choice set; without options only the question."""
    prompt = f"Hint: {hint}\n" if hint is not None else ""
    prompt += f"Question: {question}\n"
    return f"{prompt}Options:\n{option_lines(options)}\n{SELECT}" if options else prompt
