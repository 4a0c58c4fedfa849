"""A question that cannot be asked counts as wrong and is listed; the others are judged as if it were not there."""

import logging
from dataclasses import replace

import pytest

from mindvl.data.questions import Question
from mindvl.phases.answering import Answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.evaluation import evaluate, failures, scores_by_source

SHORT = Decoding(max_new_tokens=4)


@pytest.fixture(scope="module")
def answerer(make_model, tokenizer):
    return Answerer(make_model(), tokenizer)


@pytest.fixture(scope="module")
def questions(answerer, picture):
    """Three questions that the model answers rightly, because what it says is what counts as right."""
    asked = [Question(f"k{n}", "noise", "what?", "", "exact_match", (picture(56, 84, seed=n),)) for n in range(3)]
    return [
        replace(item.question, answer=item.prediction, metric="exact_match")
        for item in evaluate(answerer, asked, SHORT)
    ]


def test_a_broken_picture_counts_as_wrong_and_is_listed_with_its_reason(answerer, questions, caplog):
    torn = replace(questions[1], key="torn", source="other", images=(b"no picture",))
    with caplog.at_level(logging.WARNING):
        judged = evaluate(answerer, [questions[0], torn, *questions[1:]], SHORT)
    assert [item.score for item in judged] == [1.0, 0.0, 1.0, 1.0]
    assert [item.prediction for item in judged if not item.error] == [question.answer for question in questions]
    (line,) = failures(judged)
    assert line.startswith("other: torn: not a picture") and f"counted as wrong: {line}" in caplog.text
    assert scores_by_source(judged) == {"noise": 1.0, "other": 0.0, "mean": 0.5}


def test_a_broken_picture_whose_right_answer_is_nothing_is_still_wrong(answerer, questions):
    (judged,) = evaluate(answerer, [replace(questions[0], answer="", images=(b"",))], SHORT)
    assert judged.score == 0.0 and judged.error.startswith("not a picture")


def test_a_judged_answer_says_whether_it_was_cut(answerer, questions):
    assert {item.finish for item in evaluate(answerer, questions, SHORT)} <= {"length", "stop"}
    first = questions[0].answer[:1]
    (cut,) = evaluate(answerer, questions[:1], Decoding(max_new_tokens=4, stop=(first,)))
    assert cut.finish == "stop" and cut.prediction == "" and cut.score == 0.0


def test_neither_order_nor_size_of_batches_changes_a_judgement(answerer, questions):
    judged = evaluate(answerer, questions, SHORT)
    assert evaluate(answerer, questions[::-1], SHORT)[::-1] == judged
    assert evaluate(answerer, questions, SHORT, batch_tokens=1) == judged


def test_nothing_is_listed_where_all_could_be_asked(answerer, questions):
    assert failures(evaluate(answerer, questions, SHORT)) == []
