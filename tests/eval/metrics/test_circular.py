"""Circular accuracy, worked out by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, CircularRecord, circular_accuracy, circular_hits

STEP = 1_000_000


def rotations(question: int, *right: bool) -> list[CircularRecord]:
    return [CircularRecord(question + k * STEP, len(right), one) for k, one in enumerate(right)]


def test_a_question_counts_only_when_every_rotation_is_right():
    records = rotations(1, True, True, True, True) + rotations(2, True, True, True, False) + rotations(3, True, True)
    assert circular_hits(records) == {1: True, 2: False, 3: True}
    assert circular_accuracy(records) == 2 / 3


@pytest.mark.parametrize("compat", COMPATS)
def test_letters_are_read_from_mappings(compat):
    rows = [
        {"index": 7, "A": "red", "B": "blue", "C": None, "answer": "B", "prediction": "B."},
        {"index": 7 + STEP, "A": "blue", "B": "red", "C": float("nan"), "answer": "A", "prediction": "it is blue"},
    ]
    assert circular_accuracy(rows, compat=compat) == 1
    assert circular_accuracy([rows[0], {**rows[1], "prediction": "B"}], compat=compat) == 0
    assert circular_accuracy([rows[0], {**rows[1], "prediction": None}], compat=compat) == 0


def test_each_harness_reads_its_own_way():
    rows = [
        {"index": k * STEP, "options": ["x", "y"], "answer": "AB"[k], "prediction": f"**{'AB'[k]}**"} for k in (0, 1)
    ]
    assert circular_accuracy(rows) == 0
    assert circular_accuracy(rows, compat="vlmevalkit") == 1


def test_an_option_stored_as_nan_needs_no_rotation_but_spoils_lmms_evals_matching():
    rows = [
        {"index": k * STEP, "A": a, "B": b, "C": "nan", "answer": answer, "prediction": "banana"}
        for k, (a, b, answer) in enumerate([("banana", "apple", "A"), ("apple", "banana", "B")])
    ]
    assert circular_accuracy(rows) == 0
    assert circular_accuracy(rows, compat="vlmevalkit") == 1
    assert circular_accuracy([{**row, "prediction": row["answer"]} for row in rows]) == 1


def test_a_mapping_may_bring_its_verdict():
    assert circular_accuracy([{"index": k * STEP, "num_options": 2, "hit": 1} for k in (0, 1)]) == 1


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6), st.randoms())
def test_the_order_of_records_does_not_matter(questions, order: random.Random):
    records = [record for number, right in enumerate(questions) for record in rotations(number, *right)]
    shuffled = records.copy()
    order.shuffle(shuffled)
    assert circular_hits(shuffled) == circular_hits(records) == {n: all(right) for n, right in enumerate(questions)}


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        (rotations(5, True, True, True)[:1], "question 5 has 3 options and so rotations 0 to 2; 1 are there: 0"),
        (rotations(5, True, True, True)[1:], "2 are there: 1, 2"),
        (rotations(5, True, True) * 2, "4 are there: 0, 0, 1, 1"),
        (rotations(5, True) + rotations(5 + STEP, True, True), "one rotation has 1 options, another has 2"),
        ([], "0 records"),
        ([{"answer": "A"}], "needs an index; this one has: answer"),
        ([{"index": 1, "answer": "A", "prediction": "A"}], "row 1 has 0 options"),
        ([{"index": 1, "options": ["x", "y"]}], "row 1: a record needs prediction and answer, or correct"),
        (
            [{"index": 1, "options": 2, "hit": 1}],
            "row 1: options are texts, by letter or in order, not 2; their number",
        ),
        ([{"index": 1.5, "num_options": 1, "hit": 1}], "index is 1.5, which is no whole number"),
        ([{"index": 1, "num_options": None, "hit": 1}], "num_options is None, which is no whole number"),
    ],
)
def test_missing_rotations_and_rows_that_are_no_record_are_errors(records, complaint):
    with pytest.raises(ValueError, match=complaint):
        circular_accuracy(records)
