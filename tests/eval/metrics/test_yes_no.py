"""Yes or no in both harnesses' reading."""

import pytest

from mindvl.eval.metrics import extract_yes_no


@pytest.mark.parametrize(
    ("prediction", "lmms_eval", "vlmevalkit"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        (" YES \n", "yes", "yes"),
        ("Yes, it is.", "yes", "yes"),
        ("y", "yes", None),
        ("N", "no", None),
        ("x", None, None),
        ("", None, None),
        ("Not sure", "no", None),
        ("nothing", "no", None),
        ("snow", "no", None),
        ("Know", "no", None),
        ("The answer is yes", None, "yes"),
        ("The answer is no.", None, "no"),
        ("**Yes**", None, None),
        ("**No**", "no", None),
        ('"Yes"', "yes", "yes"),
        ("yes and no", "yes", None),
        ("no, yes", "no", None),
        ("y.e.s", "yes", "yes"),
        ("yesterday", "yes", None),
        ("It is.Yes", None, None),
        ("是", None, None),
    ],
)
def test_each_harness_reads_its_own_way(prediction, lmms_eval, vlmevalkit):
    assert extract_yes_no(prediction) == lmms_eval
    assert extract_yes_no(prediction, compat="vlmevalkit") == vlmevalkit
