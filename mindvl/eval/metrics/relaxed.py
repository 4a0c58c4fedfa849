"""Relaxed accuracy: ChartQA's measure (arXiv 2203.10244, section 5.1): numbers within 5 %, other texts equal.

    "42" against "40"       right, 5 % off, inclusive        "0.5" against "50%"   right, a percent sign divides by 100
    "1950" against "2010"   right: years are numbers         "50%" against "50"    wrong
    "0.0" against "0"       wrong: nothing is within 5 % of zero, so texts are compared
    "1,000", "$42", "1/2"   are texts; what Python reads as a float is a number, "4_2" too

lmms-eval takes the prediction as it is ("yes " is wrong); VLMEvalKit strips it, and takes a reference that is written
as a list, "['1', 'one']", as alternatives.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from mindvl.eval.metrics.compat import LMMS_EVAL, VLMEVALKIT, Text, as_answer, as_references, check_compat

TOLERANCE_RATIO = 0.05


def relaxed_accuracy(prediction: Text | None, reference: Text | Sequence[Text], *, compat: str = LMMS_EVAL) -> float:
    """1 when the answer is near enough to the reference, or to one of several, else 0.

    Raises ValueError for a list without references.
    """
    check_compat(compat)
    if compat == VLMEVALKIT and isinstance(reference, str):
        reference = written_list(reference)
    references, said = as_references(reference), as_answer(prediction)
    if said is None:
        return 0.0
    said = said.strip() if compat == VLMEVALKIT else said
    return float(any(_near(said, true) for true in references))


def written_list(text: str) -> str | list[str]:
    """The texts of a Python list that stands in a text, "[1, 'b']"; any other text as it is.

    Literals only: VLMEvalKit would also compute "[1 / 2]".
    """
    if not text.lstrip().startswith("["):
        return text
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return [str(value) for value in values] if isinstance(values, list) else text


def _near(prediction: str, reference: str) -> bool:
    predicted, true = _number(prediction), _number(reference)
    if predicted is None or not true:
        return prediction.lower() == reference.lower()
    return abs(predicted - true) / abs(true) <= TOLERANCE_RATIO  # false where either is no finite number


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
