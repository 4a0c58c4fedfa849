"""What every measure takes for an answer: texts, numbers, and None for a question that was not answered."""

import pytest

from mindvl.eval.metrics import (
    COMPATS,
    MathVistaTask,
    anls,
    extract_choice,
    extract_mmmu_choice,
    extract_yes_no,
    judge_mathvista,
    match_mmmu_open,
    ocrbench_match,
    relaxed_accuracy,
    vqa_accuracy,
)
from mindvl.eval.metrics.compat import as_answer, as_references


@pytest.mark.parametrize("compat", COMPATS)
def test_no_answer_scores_nothing_even_where_an_empty_one_is_right(compat):
    for measure in (anls, relaxed_accuracy, ocrbench_match):
        assert (measure("", [""], compat=compat), measure(None, [""], compat=compat)) == (1, 0)
    assert (vqa_accuracy("", [""] * 10, compat=compat), vqa_accuracy(None, [""] * 10, compat=compat)) == (1, 0)
    assert match_mmmu_open(None, ["a"]) == 0
    assert extract_yes_no(None, compat=compat) is None and extract_mmmu_choice(None, ["a", "b"]) is None
    assert extract_choice(None, ["none", "b"], compat=compat) is None
    assert judge_mathvista(None, MathVistaTask("None", "text"), compat=compat) is None


@pytest.mark.parametrize("compat", COMPATS)
def test_a_number_is_compared_as_it_is_written(compat):
    assert relaxed_accuracy("42", 40, compat=compat) == relaxed_accuracy(42, "40", compat=compat) == 1
    assert relaxed_accuracy("0.5", [7, 0.5], compat=compat) == 1
    assert anls(1950, "1950", compat=compat) == anls("1950", [1950], compat=compat) == 1
    assert vqa_accuracy(4, [4] * 10, compat=compat) == 1
    assert ocrbench_match("it says 1250", [12], compat=compat) == 1
    assert extract_choice(40, [30, 40], compat=compat) == "B"
    assert match_mmmu_open(1.5, [1.5]) == judge_mathvista(7, MathVistaTask("7", "integer"), compat=compat)[1] == 1


def test_anything_else_is_refused_with_its_type():
    with pytest.raises(ValueError, match=r"a prediction is a text or a number; \['yes'\] is of type list"):
        as_answer(["yes"])
    for reference in (None, ["a", None]):
        with pytest.raises(ValueError, match="a reference is a text or a number; None is of type NoneType"):
            as_references(reference)
    with pytest.raises(ValueError, match="is of type bytes"):
        as_references(b"a")
