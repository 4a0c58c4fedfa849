"""The option that an answer names: a letter that stands alone, or else the one option whose text is in the answer.

    options A. red  B. blue:   "B", "B.", "(B) blue", "it is blue"  ->  "B"      "b", "red or blue", "no idea"  ->  None

                                   lmms-eval    VLMEvalKit
    "**B**", "\\boxed{B}"           None         "B"          marks around a letter
    "The answer is b"              None         "B"          any letter behind "answer is", even of "banana"
    "E", two options               "E"          None         letters A to E, or letters that are options
    "B, since" + five words        None         None         VLMEvalKit wants it among the last four words
    "Cannot determine the answer"  None         "Z"          a refusal; Z is never right

Where a harness would ask a paid judge, or draw a letter at random, the answer here is None.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from mindvl.eval.metrics.compat import LMMS_EVAL, Text, as_answer, check_compat

REFUSED = "Z"

_NO_ANSWER = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"(?i)answer\s+is\s+\**([ABCD])")
_LAST_WORDS = 4
_SURROUNDINGS = (  # what may stand around a letter within a word, in the order in which lmms-eval tries it
    *(("", mark) for mark in (".", ",", ":", ")", ").")),
    *(("(", mark) for mark in (")", ").")),
    *((":", mark) for mark in ("", ",", ".", ")", ").")),
)
_LMMS_LETTERS = "ABCDE"
_LMMS_TEXT_LETTERS = "ABCD"


def extract_choice(
    prediction: Text | None, options: Mapping[str, Any] | Sequence[Any], *, compat: str = LMMS_EVAL
) -> str | None:
    """The letter of the option that an answer names, or None.

    Args:
        options: texts by their letters, or texts in order from A. Leave missing options out; one that is stored as the
            text "nan" is an option to lmms-eval, and "banana" then matches two.

    Raises:
        ValueError: for a letter that is none of A to Z.
    """
    check_compat(compat)
    texts = {letter: str(text) for letter, text in lettered(options).items()}
    said = as_answer(prediction)
    if said is None:
        return None
    by_letter = _lmms_letter(said) if compat == LMMS_EVAL else _vlmevalkit_letter(said, texts)
    if by_letter is not None and _NO_ANSWER not in said:
        return by_letter
    if compat == LMMS_EVAL:
        texts = {letter: text for letter, text in texts.items() if letter in _LMMS_TEXT_LETTERS}
    if compat != LMMS_EVAL and len(said.lower()) > 2 * sum(map(len, texts.values())):
        return None  # too long to be an option's text
    named = [letter for letter, text in texts.items() if text.lower() in said.lower()]
    return named[0] if len(named) == 1 else None


def lettered(options: Any) -> dict[str, Any]:
    """Options by letter. Raises ValueError for a letter that is none of A to Z, over 26 options, or other types."""
    if isinstance(options, Mapping):
        if wrong := [letter for letter in options if len(letter) != 1 or letter not in ascii_uppercase]:
            raise ValueError(f"{wrong[0]!r} is no option's letter; options are called A to Z")
        return dict(options)
    if not isinstance(options, Collection):
        raise ValueError(f"options are texts, by letter or in order, not {options!r}; their number is `num_options`")
    if len(options) > len(ascii_uppercase):
        raise ValueError(f"there are {len(options)} options and {len(ascii_uppercase)} letters")
    return dict(zip(ascii_uppercase, options, strict=False))


def _lmms_letter(prediction: str) -> str | None:
    words = set(prediction.split())
    alone = [letter for letter in _LMMS_LETTERS if letter in words]
    article = alone == ["A"] and len(prediction.split()) > 3  # "A cat sits there": no choice of A
    if len(alone) == 1 and not article:
        return alone[0]
    for before, after in _SURROUNDINGS:
        marked = [letter for letter in _LMMS_LETTERS if f"{before}{letter}{after}" in words]
        if len(marked) == 1:
            return marked[0]
    return None


def _vlmevalkit_letter(prediction: str, letters: Collection[str]) -> str | None:
    if any(refusal in prediction for refusal in _REFUSALS):
        return REFUSED
    words = prediction.translate(_MARKS).split()
    alone = [letter for letter in letters if letter in words]
    if len(alone) == 1 and words.index(alone[0]) >= len(words) - _LAST_WORDS:
        return alone[0]
    if not alone and REFUSED in words:
        return REFUSED
    behind = _ANSWER_IS.search(prediction)
    return behind[1].upper() if behind and behind[1].upper() in letters else None
