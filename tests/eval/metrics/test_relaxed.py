"""Relaxed accuracy, worked out by hand for both harnesses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("42", "40", 1),
        ("38", "40", 1),
        ("42.001", "40", 0),
        ("-42", "-40", 1),
        ("-40", "40", 0),
        ("1950", "2010", 1),
        ("0.5", "50%", 1),
        ("50%", "0.5", 1),
        ("50%", "50", 0),
        ("50 %", "0.5", 1),
        ("50%%", "50%", 1),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("1,000", "1000", 0),
        ("$42", "42", 0),
        ("42 million", "42", 0),
        ("1/2", "0.5", 0),
        ("4_2", "42", 1),
        ("４２", "42", 1),
        ("1e2", "100", 1),
        ("nan", "nan", 0),
        ("inf", "inf", 0),
        ("inf", "5", 0),
        ("Yes", "yes", 1),
        ("%", "%", 1),
        ("", "5", 0),
        ("", "", 1),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_numbers_may_be_five_percent_off_and_texts_not_at_all(prediction, reference, expected, compat):
    assert relaxed_accuracy(prediction, reference, compat=compat) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "lmms_eval", "vlmevalkit"),
    [
        ("yes ", "yes", 0, 1),
        (" yes", "yes", 0, 1),
        ("50% ", "0.5", 0, 1),
        (" 42\n", "42", 1, 1),
        ("two", "['2', 'two']", 0, 1),
        ("41", "[40, 90]", 0, 1),
        ("['2']", "['2']", 1, 0),
        ("[1/2]", "[1/2]", 1, 1),
    ],
)
def test_only_vlmevalkit_strips_and_reads_lists(prediction, reference, lmms_eval, vlmevalkit):
    assert relaxed_accuracy(prediction, reference) == lmms_eval
    assert relaxed_accuracy(prediction, reference, compat="vlmevalkit") == vlmevalkit


def test_of_several_references_one_must_be_met():
    assert relaxed_accuracy("41", ["90", "40"]) == 1
    with pytest.raises(ValueError, match="0 references"):
        relaxed_accuracy("41", [])
    with pytest.raises(ValueError, match="0 references"):
        relaxed_accuracy("41", "[]", compat="vlmevalkit")


@given(st.floats(allow_nan=False, allow_infinity=False).filter(bool), st.sampled_from(COMPATS))
def test_every_number_but_zero_is_within_five_percent_of_itself_and_half_of_it_is_not(number, compat):
    assert relaxed_accuracy(repr(number), repr(number), compat=compat) == 1
    assert abs(number) < 1e-300 or relaxed_accuracy(repr(number / 2), repr(number), compat=compat) == 0
