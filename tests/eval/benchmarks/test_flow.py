"""What all benchmarks share: limits, keys, failures, labels, and independence of order."""

import random
from dataclasses import replace

import pytest

from mindvl.eval import benchmarks
from mindvl.eval.benchmarks import load, names, overall
from mindvl.eval.metrics import COMPATS, anls


@pytest.fixture
def documents(write_tsv, picture):
    """Four questions about one picture."""
    rows = [
        {"index": number, "image": picture(28, 28) if number == 0 else "0", "question": f"q{number}", "answer": answer}
        for number, answer in enumerate(["['paris']", "['lyon', 'lyons']", "['7']", "rome"])
    ]
    return write_tsv("DocVQA_VAL", rows)


def test_the_table_of_names_is_closed_and_starts_with_the_papers_six():
    assert names()[:6] == benchmarks.PAPER_COLUMNS
    assert set(names()[6:]) == {"textvqa", "ai2d", "mmmu", "mathvista"}
    with pytest.raises(ValueError, match="unknown benchmark 'vqa'; known are mme, mmbench, ocrbench, docvqa"):
        load("vqa")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("compat", COMPATS)
def test_every_benchmark_loads_under_its_name_for_both_harnesses(name, compat):
    benchmark = load(name, compat=compat)
    assert (benchmark.name, benchmark.compat) == (name, compat)
    assert benchmark.max_new_tokens > 0
    with pytest.raises(ValueError, match="unknown compat 'mine'"):
        load(name, compat="mine")
    with pytest.raises(ValueError, match=f"{name} has no split 'nowhere'; there are: "):
        load(name, split="nowhere")


def test_the_papers_last_column_is_the_mean_of_six():
    mindvl = dict(zip(benchmarks.PAPER_COLUMNS, (91.1, 90.8, 90.0, 96.0, 89.0, 88.9), strict=True))
    assert overall({**mindvl, "textvqa": 0.0}) == pytest.approx(90.966666666)
    del mindvl["mme"]
    with pytest.raises(ValueError, match="1 of 6 columns are missing: mme"):
        overall(mindvl)


def test_a_failed_question_counts_as_wrong_and_is_listed(documents):
    benchmark = load("docvqa")
    asked = list(benchmark.questions(documents))
    answers = ["pariz", None, "7", "milan"]
    judged = [benchmark.judge(q, a, failure="out of memory") for q, a in zip(asked, answers, strict=True)]
    assert [one.score for one in judged] == [0.8, None, 1.0, 0.0]
    found = benchmark.summarise(judged)
    assert found.score == pytest.approx(45)
    assert (found.num_scored, found.num_questions, found.parts) == (4, 4, ("DocVQA_VAL",))
    assert found.unjudged == (("1", "not answered: out of memory"),)
    assert found.interval.low < 45 < found.interval.high
    assert benchmark.judge(asked[0], None).reason == "not answered"


def test_the_order_of_judgements_does_not_matter(documents):
    benchmark = load("docvqa")
    answers = ["pariz", None, "7", "roma"]
    judged = [benchmark.judge(q, a) for q, a in zip(benchmark.questions(documents), answers, strict=True)]
    expected = benchmark.summarise(judged)
    for seed in range(5):
        random.Random(seed).shuffle(judged)
        assert benchmark.summarise(iter(judged)) == expected


def test_a_limit_takes_the_first_questions(documents):
    benchmark = load("docvqa")
    assert [question.key for question in benchmark.questions(documents, limit=2)] == ["0", "1"]
    assert len(list(benchmark.questions(documents, limit=9))) == 4


def test_a_limit_takes_of_each_category_in_turn_the_next(write_tsv, picture):
    halves = ["test_human"] * 5 + ["test_augmented"] * 2
    rows = [{"index": n, "image": picture(28, 28), "question": "q", "answer": "1"} for n in range(7)]
    path = write_tsv("ChartQA_TEST", [{**row, "split": half} for row, half in zip(rows, halves, strict=True)])
    asked = {limit: [question.key for question in load("chartqa").questions(path, limit)] for limit in range(1, 9)}
    assert (asked[1], asked[2], asked[3]) == (["0"], ["0", "5"], ["0", "1", "5"])
    assert asked[6] == ["0", "1", "2", "3", "5", "6"] and asked[7] == asked[8] == list("0123456")


def test_a_bad_row_is_met_before_the_first_question_comes(write_tsv, picture):
    rows = [{"index": n, "image": picture(28, 28), "question": "q" * (2 - n), "answer": "1"} for n in range(3)]
    with pytest.raises(ValueError, match=r"DocVQA_VAL\.tsv, row 3, question: is missing"):
        next(load("docvqa").questions(write_tsv("DocVQA_VAL", rows), limit=1))


def test_a_score_of_nothing_and_one_with_padding_are_errors(documents):
    benchmark = load("docvqa")
    judged = [benchmark.judge(question, "x") for question in benchmark.questions(documents)]
    with pytest.raises(ValueError, match="0 judgements"):
        benchmark.summarise([])
    with pytest.raises(ValueError, match="question '3' was judged twice"):
        benchmark.summarise([*judged, judged[-1]])


def test_a_split_whose_answers_are_not_public_has_no_score(write_tsv, picture):
    path = write_tsv("DocVQA_TEST", [{"index": 5, "image": picture(28, 28), "question": "who"}])
    benchmark = load("docvqa")
    judged = [benchmark.judge(question, "paris") for question in benchmark.questions(path)]
    found = benchmark.summarise(judged)
    assert (judged[0].extracted, judged[0].score, found.score, found.interval) == ("paris", None, None, None)
    assert found.unjudged == (("5", "the answers of this split are not public"),)


def test_keys_that_come_twice_and_files_without_questions_are_errors(write_tsv, picture, tmp_path):
    empty = tmp_path / "X.tsv"
    empty.write_text("index\timage\tquestion\n")
    with pytest.raises(ValueError, match=r"X\.tsv holds no question of docvqa"):
        list(load("docvqa").questions(empty))
    row = {"index": 5, "image": picture(28, 28), "question": "who", "answer": "x"}
    with pytest.raises(ValueError, match=r"X\.tsv, row 2, key: '5' is also that of row 1"):
        list(load("docvqa").questions(write_tsv("X", [row, row])))
    with pytest.raises(ValueError, match=r"X\.tsv, row 1, question: is missing"):
        list(load("docvqa").questions(write_tsv("X", [{**row, "question": ""}])))


def test_pictures_reach_the_question_as_they_were_stored(write_tsv, picture):
    tiny, ribbon = picture(1, 1), picture(1, 200)
    rows = [{"index": n, "image": image, "question": "q", "answer": "a"} for n, image in enumerate((tiny, ribbon))]
    asked = list(load("textvqa").questions(write_tsv("TextVQA_VAL", rows)))
    assert [question.images for question in asked] == [(tiny,), (ribbon,)]
    assert [part["type"] for part in asked[0].messages[0]["content"]] == ["image", "text"]


def test_a_judgement_is_by_the_metric_and_needs_no_pictures(documents):
    benchmark = load("docvqa", compat="vlmevalkit")
    question = replace(list(benchmark.questions(documents))[1], images=())
    assert question.references == ("lyon", "lyons")
    assert benchmark.judge(question, "Lyonz").score == anls("Lyonz", ["lyon", "lyons"])
