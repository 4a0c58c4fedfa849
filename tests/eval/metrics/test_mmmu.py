"""MMMU's own parsing, worked out by hand."""

import pytest

from mindvl.eval.metrics import extract_mmmu_choice, match_mmmu_open

COLOURS = ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("(A) is wrong, (C) is right", "C"),
        ("A is wrong and B is right", "B"),
        ("(A), not B", "A"),
        ("A. red? B. blue", "A"),
        ("it is blue", None),
        ("I think that it must be blue", "B"),
        ("first I saw green and then I saw blue", "B"),
        ("I really do not know that one", None),
        ("", None),
        ("b", None),
    ],
)
def test_brackets_come_before_blanks_before_periods_before_texts_and_the_last_mention_wins(prediction, expected):
    assert extract_mmmu_choice(prediction, COLOURS) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("1,234.5", ["1234.5"], 1),
        ("So the answer is 1,234 N", ["1234"], 1),
        ("So the answer is 1,234.5 N", ["1234.5"], 0),
        ("x = 3 + 4 = 7", ["7"], 1),
        ("it is 7.004", ["7"], 1),
        ("it is 7.006", ["7"], 0),
        ("1e3", ["1000"], 1),
        ("it is the Left ventricle.", ["left ventricle"], 1),
        ("the right ventricle", ["left ventricle"], 0),
        ("the answer is a b", ["b"], 1),
        ("abc", ["b"], 0),
        ("24/7", ["24/7", "3.429"], 1),
        ("is 5\nthe result is 6", ["5"], 1),
        ("", ["5"], 0),
    ],
)
def test_open_answers_are_found_by_number_or_phrase(prediction, references, expected):
    assert match_mmmu_open(prediction, references) == expected


def test_an_open_question_without_references_is_an_error():
    with pytest.raises(ValueError, match="0 references"):
        match_mmmu_open("5", [])
