"""OCRBench's measure (arXiv 2305.07895): a hit when a reference stands anywhere in the answer.

    "It says 1250." against "12"    a hit: there is no word boundary

Text is lower-case, stripped, with blanks for line breaks. Handwritten formulas (the data set HME100k) keep their case
and lose all blanks: "x ^ 2" is "x^2". lmms-eval also folds full-width letters and digits to plain ones; VLMEvalKit does
not. An empty reference is in every answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindvl.eval.metrics.compat import LMMS_EVAL, VLMEVALKIT, Text, as_answer, as_references, check_compat

FORMULA_DATASET = "HME100k"
FORMULA_CATEGORY = "Handwritten Mathematical Expression Recognition"

_TO_HALF_WIDTH = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}


def ocrbench_match(
    prediction: Text | None,
    references: Text | Sequence[Text],
    *,
    dataset: str | None = None,
    category: str | None = None,
    compat: str = LMMS_EVAL,
) -> float:
    """1 when one of the references is part of the answer, else 0.

    Args:
        dataset: where the picture is from, by which lmms-eval tells formulas: "HME100k".
        category: kind of question, by which VLMEvalKit tells them. Either is taken where the other is not given.

    Raises:
        ValueError: without references.
    """
    check_compat(compat)
    first, second = (category, dataset) if compat == VLMEVALKIT else (dataset, category)
    if (second if first is None else first) in (FORMULA_DATASET, FORMULA_CATEGORY):
        read = _formula
    else:
        read = _text if compat == VLMEVALKIT else _half_width_text
    true, answer = as_references(references), as_answer(prediction)
    if answer is None:
        return 0.0
    said = read(answer.strip())
    return float(any(read(reference) in said for reference in true))


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _half_width_text(text: str) -> str:
    return _text(text.translate(_TO_HALF_WIDTH))
