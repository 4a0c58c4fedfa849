"""What all measures share: the harness whose rule holds where the two differ, and what an answer may be given as.

An answer is a text, a number, which is compared as Python writes it, or None: the question was not answered, and that
scores nothing, also where an empty text would be right.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Number

LMMS_EVAL = "lmms-eval"
VLMEVALKIT = "vlmevalkit"
COMPATS = (LMMS_EVAL, VLMEVALKIT)

Text = str | int | float
"""What a reference may be given as; an answer may be None as well."""


def check_compat(compat: str) -> str:
    """The name itself. Raises ValueError for a harness that is not known."""
    if compat not in COMPATS:
        raise ValueError(f"unknown compat {compat!r}; known are {', '.join(COMPATS)}")
    return compat


def as_answer(prediction: object) -> str | None:
    """A text or a number as text; None stays None. Raises ValueError for anything else."""
    return None if prediction is None else _as_text("prediction", prediction)


def as_references(references: object) -> tuple[str, ...]:
    """One reference or several, as several texts.

    Raises ValueError when there is none, since nothing can be judged by it, and for one that is no text or number.
    """
    if isinstance(references, str | bytes) or not isinstance(references, Iterable):
        references = (references,)
    found = tuple(_as_text("reference", one) for one in references)
    if not found:
        raise ValueError("there are 0 references to judge by; an answer that nobody knows is not scored")
    return found


def _as_text(what: str, value: object) -> str:
    if not isinstance(value, str | Number):
        raise ValueError(f"a {what} is a text or a number; {value!r} is of type {type(value).__name__}")
    return str(value)
