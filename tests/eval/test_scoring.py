"""Scores worked out by hand."""

import pytest

from mindvl.eval.scoring import METRICS, box_iou, parse_box, score


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("velo 42", "velo 42", 1),
        ("  Velo 42\n", "velo 42", 1),
        ("velo42", "velo 42", 0),
        ("velo  42", "velo 42", 0),
        ("", "velo", 0),
        ("", "", 1),
        ("红色", "红色", 1),
        ("velo 42.", "velo 42", 0),
    ],
)
def test_exact_match_ignores_case_and_outer_white_space_and_nothing_else(prediction, answer, expected):
    assert score("exact_match", prediction, answer) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("100", "100", 1),
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-105", "-100", 1),
        ("-100", "100", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),
        ("1e2", "100", 1),
        ("June", "june", 1),
        ("June", "July", 0),
        ("about 100", "100", 0),
        ("", "100", 0),
    ],
)
def test_relaxed_accuracy_allows_numbers_five_percent_and_words_none(prediction, answer, expected):
    assert score("relaxed_accuracy", prediction, answer) == expected


@pytest.mark.parametrize("prediction", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_wrong(prediction):
    assert score("relaxed_accuracy", prediction, "100") == 0


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0),
        ((2, 2, 4, 4), (0, 0, 10, 10), 0.04),
    ],
)
def test_intersection_over_union_is_what_the_areas_say(first, second, iou):
    assert box_iou(first, second) == box_iou(second, first) == pytest.approx(iou)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("[0,0,10,10]", 1),
        ("[0, 0, 10, 5]", 1),
        ("the box is [ 0 , 0 , 10 , 6 ].", 1),
        ("[0,0,10,4]", 0),
        ("[10,10,0,0]", 0),
        ("[0,0,10]", 0),
        ("nowhere", 0),
        ("[50,50,60,60] or [0,0,10,10]", 0),
    ],
)
def test_a_box_is_right_when_half_of_the_union_is_shared(prediction, expected):
    assert score("box_iou", prediction, "[0,0,10,10]") == expected


@pytest.mark.parametrize("text", ["[3,3,3,9]", "[3,9,4,9]", "[9,9,3,3]", ""])
def test_a_box_without_area_is_no_box(text):
    assert parse_box(text) is None


def test_a_box_may_reach_out_of_the_picture():
    assert parse_box("[-5,0,10,7]") == (-5, 0, 10, 7)


def test_a_reference_that_is_no_box_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match="the reference 'left' is no box"):
        score("box_iou", "[0,0,1,1]", "left")


def test_an_unknown_metric_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"unknown metric 'bleu'; known are .*exact_match.*relaxed_accuracy.*box_iou"):
        score("bleu", "a", "a")


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_gives_a_true_answer_one(metric):
    answer = {"box_iou": "[1,2,3,4]"}.get(metric, "17")
    assert score(metric, answer, answer) == 1
