"""MathVista without a judge: only an answer that is nothing but the answer is read."""

import pytest

from mindvl.eval.metrics import COMPATS, MathVistaTask, judge_mathvista

CHOICE = MathVistaTask("8/11", "text", ("3/11", "8/11"))


@pytest.mark.parametrize(
    ("prediction", "task", "expected"),
    [
        ("8/11", CHOICE, ("8/11", 1)),
        ("B", CHOICE, ("8/11", 1)),
        ("(A)", CHOICE, ("3/11", 0)),
        ("I cannot say", CHOICE, None),
        ("14", MathVistaTask("14", "integer"), ("14", 1)),
        (" 14\n", MathVistaTask("14", "integer"), ("14", 1)),
        ("15", MathVistaTask("14", "integer"), ("15", 0)),
        ("14 apples", MathVistaTask("14", "integer"), None),
        ("14.0", MathVistaTask("14", "integer"), None),
        ("1.2", MathVistaTask("1.2", "float", precision=1), ("1.2", 1)),
        ("about 1.2", MathVistaTask("1.2", "float", precision=1), None),
        ("[1, 2]", MathVistaTask("[1, 2]", "list"), ("[1, 2]", 1)),
        ("[1, 3]", MathVistaTask("[1, 2]", "list"), ("[1, 3]", 0)),
        ("1 and 2", MathVistaTask("[1, 2]", "list"), None),
        ("red", MathVistaTask("red", "text"), ("red", 1)),
        ("crimson", MathVistaTask("red", "text"), None),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_what_needs_a_judge_is_none(prediction, task, expected, compat):
    assert judge_mathvista(prediction, task, compat=compat) == expected


@pytest.mark.parametrize(
    ("prediction", "task", "lmms_eval", "vlmevalkit"),
    [
        ("1.24", MathVistaTask("1.2", "float", precision=1), ("1.2", 1), ("1.24", 0)),
        ("1.20", MathVistaTask("1.2", "float", precision=2), ("1.2", 1), ("1.20", 1)),
        ("The answer is (B).", CHOICE, None, ("8/11", 1)),
        ("Cannot determine the answer", CHOICE, None, ("Z", 0)),
    ],
)
def test_where_the_harnesses_read_differently(prediction, task, lmms_eval, vlmevalkit):
    assert judge_mathvista(prediction, task) == lmms_eval
    assert judge_mathvista(prediction, task, compat="vlmevalkit") == vlmevalkit


def test_tasks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="unknown answer_type 'number'; known are text, integer, float, list"):
        MathVistaTask("1", "number")
    with pytest.raises(ValueError, match=r"the answer '5/11' is none of the choices: 3/11, 8/11"):
        MathVistaTask("5/11", "text", ("3/11", "8/11"))
