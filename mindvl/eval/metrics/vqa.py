"""VQA accuracy: TextVQA's measure (arXiv 1904.08920): ten people answered, agreement with three others is full marks.

    agreeing with 1 / 2 / 3 / 4 of ten people    0.3 / 0.6 / 0.9 / 1.0

For each person in turn, the matches among the *other* nine are counted, up to three, and divided by three; the score is
the mean. With one reference it is always 0. This is not the popular min(matches / 3, 1).

Answers are normalised first: punctuation, number words, articles, contractions. The harnesses do not clean alike:

                        lmms-eval      VLMEvalKit
    "red,blue"          "redblue"      "red blue"     commas and question marks go first
    "3."                "3"            "3."           a period behind a digit
    "dog's"             "dog 's"       "dog's"
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mindvl.eval.metrics.compat import LMMS_EVAL, Text, as_answer, as_references, check_compat
from mindvl.eval.metrics.contractions import RESTORED

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_LOOSE_PERIOD = {"lmms-eval": re.compile(r"\.(?!\d)"), "vlmevalkit": re.compile(r"(?<!\d)\.(?!\d)")}

MOST_PERIODS = 32
"""Both harnesses hand a flag (of value 32) to `sub` where the number of replacements belongs."""

ENOUGH_MATCHES = 3


def vqa_accuracy(prediction: Text | None, references: Text | Sequence[Text], *, compat: str = LMMS_EVAL) -> float:
    """Agreement with several people's answers, 0 to 1. Raises ValueError without references."""
    true = [normalise_vqa(reference, compat=compat) for reference in as_references(references)]
    said = as_answer(prediction)
    if said is None:
        return 0.0
    predicted = normalise_vqa(said, compat=compat)
    matches = true.count(predicted)
    thirds = sum(min(ENOUGH_MATCHES, matches - (one == predicted)) for one in true)
    return thirds / (ENOUGH_MATCHES * len(true))


def normalise_vqa(text: str, *, compat: str = LMMS_EVAL) -> str:
    """The text as answers are compared: "The two dogs!" becomes "2 dogs"."""
    if check_compat(compat) == LMMS_EVAL:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip(), compat=compat)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def strip_punctuation(text: str, *, compat: str) -> str:
    """Without punctuation: a mark that touches a blank anywhere is removed throughout, any other becomes a blank.

    Where a comma stands between two digits, all marks are removed.
    """
    number_with_comma = _DIGIT_COMMA_DIGIT.search(text) is not None
    found = text
    for mark in _PUNCTUATION:
        loose = number_with_comma or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if loose else " ")
    return _LOOSE_PERIOD[check_compat(compat)].sub("", found, count=MOST_PERIODS)
