"""MathVista (arXiv 2310.02255) without a judge: what a rule can read is scored, the rest is said to be unreadable.

Both harnesses let a paid model extract the answer unless a rule has found it first. Only answers that are nothing but
the answer are read here: an option's text, letter or "(B)", a bare integer, a bare decimal, a bare list. VLMEvalKit's
rule also reads choices out of longer answers (`extract_choice`).

    float, precision 1, answer "1.2":   "1.24" right in lmms-eval (rounds), wrong in VLMEvalKit      "about 1.2" unread
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from mindvl.eval.metrics.choice import extract_choice
from mindvl.eval.metrics.compat import LMMS_EVAL, Text, as_answer, check_compat

ANSWER_TYPES = ("text", "integer", "float", "list")

_LETTER_ONLY = re.compile(r"\(?([A-Z])\)?[.:]?")


@dataclass(frozen=True)
class MathVistaTask:
    """What a question wants: the fields of the data set that its scoring needs.

    Args:
        answer: the option's text of a choice, else the value as text.
        answer_type: "text", "integer", "float" or "list".
        choices: the options' texts in order; empty for a free answer.
        precision: decimals of a "float".
    """

    answer: str
    answer_type: str
    choices: Sequence[str] = ()
    precision: int = 0

    def __post_init__(self) -> None:
        if self.answer_type not in ANSWER_TYPES:
            raise ValueError(f"unknown answer_type {self.answer_type!r}; known are {', '.join(ANSWER_TYPES)}")
        if self.choices and self.answer not in self.choices:
            raise ValueError(f"the answer {self.answer!r} is none of the choices: {', '.join(self.choices)}")


def judge_mathvista(
    prediction: Text | None, task: MathVistaTask, *, compat: str = LMMS_EVAL
) -> tuple[str, float] | None:
    """(what was read, 1 or 0), or None where only a judge could say what the answer means, and without an answer."""
    check_compat(compat)
    said = as_answer(prediction)
    if said is None:
        return None
    if task.choices:
        read = _choice(said, task.choices, compat)
        return None if read is None else (read, float(read == task.answer))
    said = said.strip()
    try:
        if task.answer_type == "integer":
            return said, float(int(said) == int(task.answer))
        if task.answer_type == "float" and compat == LMMS_EVAL:
            rounded = str(round(float(said), task.precision))
            return rounded, float(rounded == task.answer.strip())
        if task.answer_type == "float":
            return said, float(float(said) == float(task.answer))
        if task.answer_type == "list" and isinstance(ast.literal_eval(said), list):
            return said, float(said == task.answer.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return None
    return (said, 1.0) if said == task.answer.strip() else None


def _choice(prediction: str, choices: Sequence[str], compat: str) -> str | None:
    if compat != LMMS_EVAL:
        letter = extract_choice(prediction, choices, compat=compat)
        return (
            choices[ascii_uppercase.index(letter)] if letter and letter in ascii_uppercase[: len(choices)] else letter
        )
    said = prediction.strip()
    if said in choices:
        return said
    alone = _LETTER_ONLY.fullmatch(said)
    place = ascii_uppercase.index(alone[1]) if alone else len(choices)
    return choices[place] if place < len(choices) else None
