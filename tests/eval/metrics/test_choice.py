"""The option an answer names, in both harnesses' reading, and that nothing is drawn at random."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, extract_choice

COLOURS = {"A": "red", "B": "blue", "C": "green", "D": "grey"}


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) blue", "B"),
        ("The answer is B.", "B"),
        ("The answer: (C).", "C"),
        ("it is Blue", "B"),
        ("red or blue", None),
        ("no idea", None),
        ("b", None),
        ("答案是B", None),
        ("A or B", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_a_letter_that_stands_alone_or_one_options_text_is_read(prediction, expected, compat):
    assert extract_choice(prediction, COLOURS, compat=compat) == expected


@pytest.mark.parametrize(
    ("prediction", "lmms_eval", "vlmevalkit"),
    [
        ("**B**", None, "B"),
        ("\\boxed{B}", None, "B"),
        ("# B", "B", "B"),
        ("answer:B", None, "B"),
        (":B", "B", "B"),
        ("B;", None, "B"),
        ("E", "E", None),
        ("A cat sits there", None, "A"),
        ("A cat sits there, so B.", "B", None),
        ("A cat", "A", "A"),
        ("B because I can see that", "B", None),
        ("well, B I can see", "B", "B"),
        ("The answer is b", None, "B"),
        ("The answer is banana", None, "B"),
        ("The correct answer is **C**. Option D is not.", "D", "C"),
        ("Cannot determine the answer", None, "Z"),
        ("Z", None, "Z"),
        ("it must be something like blue, from all I can see here", "B", None),
        ("Failed to obtain answer via API. B", None, None),
        ("Failed to obtain answer via API: blue", "B", None),
    ],
)
def test_where_the_harnesses_read_differently(prediction, lmms_eval, vlmevalkit):
    assert extract_choice(prediction, COLOURS) == lmms_eval
    assert extract_choice(prediction, COLOURS, compat="vlmevalkit") == vlmevalkit


def test_lmms_eval_reads_letters_that_are_no_options():
    assert extract_choice("C", ["yes", "no"]) == "C"
    assert extract_choice("C", ["yes", "no"], compat="vlmevalkit") is None


def test_a_missing_option_stored_as_nan_spoils_a_banana_in_lmms_eval():
    assert extract_choice("a banana", {"A": "banana", "B": "apple", "C": "nan"}) is None
    assert extract_choice("a banana", {"A": "banana", "B": "apple"}) == "A"


def test_a_fifth_option_is_read_by_its_letter_alone_in_lmms_eval():
    options = ["red", "blue", "green", "grey", "pink"]
    assert extract_choice("pink", options) is None
    assert extract_choice("E", options) == "E"
    assert extract_choice("pink", options, compat="vlmevalkit") == "E"


@given(st.text(alphabet="ABEZ .()*redblu,:", max_size=20), st.sampled_from(COMPATS))
def test_the_same_answer_is_read_the_same_way_twice_and_only_letters_come_out(prediction, compat):
    found = extract_choice(prediction, COLOURS, compat=compat)
    assert found == extract_choice(prediction, list(COLOURS.values()), compat=compat)
    assert found in (None, *"ABCDE", "Z")


def test_options_beyond_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="27 options and 26 letters"):
        extract_choice("A", ["x"] * 27)
    with pytest.raises(ValueError, match="'1' is no option's letter"):
        extract_choice("A", {"1": "x"})
