"""Questions of multiple choice: the choices are shown under letters, and a letter is the answer.

    "Which?", ["red", "blue"], 1   ->   "Which?\\nA. red\\nB. blue", "B"

Data sets store the answer as a number from 0 (perhaps as text, "1"), as a letter, or as the choice itself. Where two of
these readings name different choices, as "1" does among "0", "2" and "1", nobody can tell which was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from mindvl.data.importing.outcome import Refusal


def ask_with_choices(question: str, choices: Any, answer: Any) -> tuple[str, str]:
    """The question with its choices, and the letter of the right one.

    Raises Refusal when the choices are no texts, or the answer is none of them or several.
    """
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise Refusal("the choices are no list")
    if len(choices) > len(ascii_uppercase):
        raise Refusal("there are more choices than letters")
    texts = [str(choice).strip() for choice in choices if isinstance(choice, str | int | float)]
    if len(texts) < len(choices) or not all(texts):
        raise Refusal("a choice is not text")
    meant = _meant(answer, texts)
    if not meant:
        raise Refusal("the answer is none of the choices")
    if len(meant) > 1:
        raise Refusal("the answer may be the number of one choice and the text of another")
    shown = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False)]
    return "\n".join([question, *shown]), ascii_uppercase[meant.pop()]


def _meant(answer: Any, texts: Sequence[str]) -> set[int]:
    """Places of the choices that an answer may mean."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)  # whole numbers beside missing ones are stored so
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        return set()
    said = str(answer).strip()
    meant = {place for place, text in enumerate(texts) if isinstance(answer, str) and text == said}
    if said.isascii() and said.isdigit() and int(said) < len(texts):
        meant.add(int(said))
    letter = said.strip("().").upper()
    if len(letter) == 1 and letter in ascii_uppercase[: len(texts)]:
        meant.add(ascii_uppercase.index(letter))
    return meant
