"""OCRBench's substring rule, worked out by hand for both harnesses."""

import pytest

from mindvl.eval.metrics import COMPATS, ocrbench_match

FORMULAS = "Handwritten Mathematical Expression Recognition"


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("It says CENTRE.", ["centre"], 1),
        ("1250", ["12"], 1),
        ("banana", ["a"], 1),
        ("new\nyork", ["New York"], 1),
        ("new  york", ["new york"], 0),
        ("new\tyork", ["new york"], 0),
        ("centre", ["centre."], 0),
        ("centre", [" centre "], 1),
        ("go", ["stop", "go"], 1),
        ("anything", [""], 1),
        ("", ["a"], 0),
        ("X^2", ["x^2"], 1),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_a_reference_anywhere_in_the_answer_is_a_hit(prediction, references, expected, compat):
    assert ocrbench_match(prediction, references, dataset="IIIT5K", compat=compat) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [("x ^ 2 +\n1", "x^2+1", 1), ("X^2", "x^2", 0), ("x\t^2", "x^2", 0), ("so x^2", "x ^ 2", 1), ("ｘ", "x", 0)],
)
@pytest.mark.parametrize(
    "where",
    [
        {"dataset": "HME100k"},
        {"dataset": "HME100k", "compat": "vlmevalkit"},
        {"category": FORMULAS},
        {"category": FORMULAS, "compat": "vlmevalkit"},
        {"dataset": FORMULAS, "compat": "vlmevalkit"},
    ],
)
def test_formulas_lose_their_blanks_and_keep_their_case(prediction, reference, expected, where):
    assert ocrbench_match(prediction, [reference], **where) == expected


def test_each_harness_goes_by_its_own_label_when_both_are_given():
    labels = {"dataset": "IIIT5K", "category": FORMULAS}
    assert ocrbench_match("a b", "ab", **labels) == 0
    assert ocrbench_match("a b", "ab", **labels, compat="vlmevalkit") == 1


def test_only_lmms_eval_folds_full_width_characters():
    assert ocrbench_match("ＡＢ１２！", ["ab12!"]) == 1
    assert ocrbench_match("a　b", ["a b"]) == 1
    assert ocrbench_match("ＡＢ１２！", ["ab12!"], compat="vlmevalkit") == 0


def test_a_question_without_references_is_an_error():
    with pytest.raises(ValueError, match="0 references"):
        ocrbench_match("a", [])
