"""Average normalised Levenshtein similarity: DocVQA's and InfoVQA's measure (arXiv 1907.00490).

    "pariz" against "paris"   1 edit over 5 characters: 0.8
    "lyon"  against "paris"   0: similarities below one half count nothing

Both harnesses and the official evaluator count the edits on stripped, lower-case text with single blanks but divide by
the longer of the two *raw* texts. So blanks around a wrong answer raise its score: "  pariz" has 1 - 1/7 = 0.857. At
exactly one half the score is kept, where the paper's formula would give 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindvl.eval.metrics.compat import LMMS_EVAL, Text, as_answer, as_references, check_compat

THRESHOLD = 0.5


def anls(prediction: Text | None, references: Text | Sequence[Text], *, compat: str = LMMS_EVAL) -> float:
    """Similarity, 0 or 0.5 to 1, to the nearest of the references; both harnesses agree.

    Raises ValueError without references.
    """
    check_compat(compat)
    true, said = as_references(references), as_answer(prediction)
    if said is None:
        return 0.0
    similarity = 1 - min(_distance_ratio(said, reference) for reference in true)
    return similarity if similarity >= THRESHOLD else 0.0


def _distance_ratio(prediction: str, reference: str) -> float:
    predicted, true = (" ".join(text.lower().split()) for text in (prediction, reference))
    longer = max(
        len(prediction.upper()), len(reference.upper())
    )  # upper-casing makes two letters of the German sharp s
    if longer == 0:
        return 0.0
    if 2 * abs(len(predicted) - len(true)) > longer:
        return 1.0  # over half of it is edits already; a page of reasoning is not compared letter by letter
    return edit_distance(predicted, true) / longer


def edit_distance(first: str, second: str) -> int:
    """Least number of characters to insert, delete or replace to make one text of the other (Levenshtein)."""
    shorter, longer = sorted((first, second), key=len)
    row = list(range(len(shorter) + 1))
    for number, letter in enumerate(longer, 1):
        corner, row[0] = row[0], number
        for place, other in enumerate(shorter, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (letter != other))
    return row[-1]
