"""MMMU's own reading of answers (arXiv 2311.16502), as lmms-eval uses it: letters by shape, open answers by phrase.

Choices: "(B)" before "B " before "B.", and in an answer of more than five words the text of an option; of several, the
one that is mentioned last. Where the original draws an option at random, the answer here is None.

Open questions: the ends of sentences behind words such as "is" or "answer", and all numbers in them, to two decimals:

    "So the answer is 1,234 N"     against "1234"     right, one of its numbers is equal
    "it is the left ventricle"     against "left ventricle"   right, the phrase is in it

lmms-eval at 75571cfe hands on one found value as a string and then compares its characters, so open questions score
nothing there; this is the rule it took over, unbroken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mindvl.eval.metrics.choice import lettered
from mindvl.eval.metrics.compat import Text, as_answer, as_references

_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_SHAPES = (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} "))
"""How a letter is found, and by which mention several are ordered; a letter with a period is looked for with blanks."""

_FEW_WORDS = 5
_KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_DECIMALS = 2


def extract_mmmu_choice(prediction: Text | None, options: Mapping[str, Any] | Sequence[Any]) -> str | None:
    """The letter of the option that an answer names, or None. Raises ValueError for a letter that is none of A to Z."""
    texts = {letter: str(text) for letter, text in lettered(options).items()}
    answer = as_answer(prediction)
    if answer is None:
        return None
    for mark in _STRIPPED:
        answer = answer.strip(mark)
    said = f" {answer} "
    for shape, place in _SHAPES:
        if found := [letter for letter in texts if shape.format(letter) in said]:
            return max(found, key=lambda letter: said.rfind(place.format(letter)))
    if len(said.split()) <= _FEW_WORDS:
        return None
    lower = said.lower()
    found = [letter for letter, text in texts.items() if text.lower() in lower]
    return max(found, key=lambda letter: lower.rfind(texts[letter].lower())) if found else None


def match_mmmu_open(prediction: Text | None, references: Text | Sequence[Text]) -> float:
    """1 when a number of the answer equals a reference or one of its phrases contains it. Raises without references."""
    wanted = [value for reference in as_references(references) for value in _normalise(reference)]
    answer = as_answer(prediction)
    if answer is None:
        return 0.0
    phrases = _key_phrases(answer)
    texts = [*phrases, *(number for phrase in phrases for shape in _NUMBERS for number in shape.findall(phrase))]
    for value in (value for text in texts for value in _normalise(text)):
        if value in wanted if isinstance(value, float) else any(isinstance(w, str) and w in value for w in wanted):
            return 1.0
    return 0.0


def _key_phrases(answer: str) -> list[str]:
    """Of each line the shortest text behind a key word, on the last one also behind "="; else all of the answer."""
    answer = answer.strip().strip(".").lower()
    lines = answer.split("\n")  # sentences would end at ". " before a capital, which lower-casing has removed
    phrases = []
    for number, line in enumerate(lines):
        shortest = ""
        for word in (*_KEY_WORDS, "=") if number == len(lines) - 1 else _KEY_WORDS:
            tail = line.split(word)[-1].strip()
            if word in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            phrases.append(shortest)
    return phrases or [answer]


def _normalise(text: str) -> list[float | str]:
    """A number to two decimals; else the text in lower case, a single letter with a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), _DECIMALS)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
