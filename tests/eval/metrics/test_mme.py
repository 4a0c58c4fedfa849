"""MME's points, worked out by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, MMERecord, mme_score
from mindvl.eval.metrics.mme import CATEGORIES, COGNITION, PERCEPTION


def pair(category: str, image: str, first: bool, second: bool) -> list[MMERecord]:
    return [MMERecord(category, image, first), MMERecord(category, image, second)]


def everything(right: bool = True) -> list[MMERecord]:
    return [record for name in CATEGORIES for record in pair(name, "1.png", right, right)]


@pytest.mark.parametrize(
    ("pairs", "points"),
    [
        ([(1, 1)], 200),
        ([(1, 0)], 50),
        ([(0, 0)], 0),
        ([(1, 1), (1, 0)], 75 + 50),
        ([(1, 0), (0, 1)], 50),
        ([(1, 1), (0, 0), (0, 0)], 100 / 3 + 100 / 3),
    ],
)
def test_points_are_accuracy_over_questions_plus_accuracy_over_pictures(pairs, points):
    records = [r for n, (a, b) in enumerate(pairs) for r in pair("count", f"{n}.png", bool(a), bool(b))]
    found = mme_score(records)
    assert found.by_category == {"count": pytest.approx(points)}
    assert (found.perception, found.cognition) == (pytest.approx(points), 0)
    assert found.percent == pytest.approx(points / 2)


@pytest.mark.parametrize("compat", COMPATS)
def test_all_right_is_2000_and_800_and_100_percent(compat):
    found = mme_score(everything(), compat=compat)
    assert (found.perception, found.cognition, found.total, found.percent) == (2000, 800, 2800, 100)
    assert mme_score(everything(False), compat=compat).total == 0
    assert len(PERCEPTION) == 10 and len(COGNITION) == 4


def test_a_whole_runs_percent_is_the_papers_column():
    records = [record for record in everything() if record.category != "OCR"] + pair("OCR", "1.png", True, False)
    assert mme_score(records).percent == mme_score(records).total / 28 == 2650 / 28


def test_the_same_picture_may_occur_in_two_categories():
    assert mme_score(pair("count", "1.png", True, True) + pair("color", "1.png", False, True)).perception == 250


@pytest.mark.parametrize(
    ("compat", "points"),
    [("lmms-eval", 50), ("vlmevalkit", 200)],
)
def test_mappings_are_read_by_the_harness_rule(compat, points):
    rows = [
        {"category": "count", "question_id": "1", "prediction": "Yes", "answer": "Yes"},
        {"category": "count", "question_id": "1", "prediction": "The answer is no.", "answer": "No"},
    ]
    assert mme_score(rows, compat=compat, partial=True).total == points


@pytest.mark.parametrize("name", ["image", "image_path", "question_id"])
@pytest.mark.parametrize("verdict", ["correct", "score"])
def test_a_mapping_may_bring_its_verdict(name, verdict):
    rows = [{"category": "count", name: "1", verdict: value} for value in (1, 0.0)]
    assert mme_score(rows).total == 50


def test_a_question_without_an_answer_is_wrong():
    rows = [{"category": "count", "image": "1", "prediction": None, "answer": "No"} for _ in range(2)]
    assert mme_score(rows).total == 0


@given(st.lists(st.tuples(st.sampled_from(CATEGORIES), st.booleans(), st.booleans()), min_size=1), st.randoms())
def test_the_order_of_records_does_not_matter(pairs, order: random.Random):
    records = [r for n, (name, a, b) in enumerate(pairs) for r in pair(name, str(n), a, b)]
    shuffled = records.copy()
    order.shuffle(shuffled)
    assert mme_score(shuffled) == mme_score(records)


@pytest.mark.parametrize(
    ("records", "compat", "complaint"),
    [
        (pair("count", "1", True, True)[:1], "lmms-eval", "category count, picture 1 has 1"),
        (pair("count", "1", True, True) * 2, "lmms-eval", "category count, picture 1 has 4"),
        (pair("counting", "1", True, True), "lmms-eval", "no category 'counting'; there are: existence"),
        (pair("count", "1", True, True), "vlmevalkit", "13 of 14 categories of MME are missing: existence, position"),
        ([], "lmms-eval", "0 records"),
        ([{"category": "count"}], "lmms-eval", "needs category and image; this one has: category"),
        ([{"category": "count", "image": "1"}], "lmms-eval", "needs prediction and answer, or correct"),
        ([{"category": "count", "image": "1", "score": 0.5}], "lmms-eval", "or correct as 0 or 1"),
        (
            [{"category": "count", "image": "1", "prediction": "yes", "answer": "maybe"}],
            "lmms-eval",
            "picture 1: the answer 'maybe' is not yes or no",
        ),
    ],
)
def test_missing_pairs_and_unknown_categories_are_errors(records, compat, complaint):
    with pytest.raises(ValueError, match=complaint):
        mme_score(records, compat=compat)
