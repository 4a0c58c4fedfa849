"""Every benchmark from every layout it comes in: what is asked, in whose words, and how an answer is judged."""

import json

import pytest

from mindvl.eval.benchmarks import load

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
SELECT = "Please select the correct answer from the options above. \n"


def text_of(question) -> str:
    (part,) = (part["text"] for part in question.messages[0]["content"] if part["type"] == "text")
    return part


@pytest.fixture
def one(write_tsv, write_parquet, picture):
    """The first question of a file with one row, and what belongs to it, and its benchmark."""

    def make(name: str, layout: str, row: dict, **settings):
        benchmark = load(name, **settings)
        image = picture(28, 56)
        row = {"image": image, **({"index": 1} if layout == "tsv" else {}), **row}
        rows = [row] * 2 if name == "mme" else [row]
        if name == "mmbench" and str(row["index"]).isdigit():
            num_options = sum(row.get(letter, "nan") != "nan" for letter in "ABC")
            rows = [{**row, "index": row["index"] + k * 1_000_000} for k in range(num_options)] or rows
        path = write_tsv(name, rows) if layout == "tsv" else write_parquet(f"{name}.parquet", rows)
        question = next(benchmark.questions(path))
        assert question.images == (image,)
        return benchmark, question

    return make


@pytest.mark.parametrize(
    ("name", "layout", "row", "lmms_eval", "vlmevalkit"),
    [
        ("docvqa", "tsv", {"question": "Who?", "answer": "['Al']"}, "Who?" + SHORT, "Who?" + SHORT),
        (
            "infovqa",
            "parquet",
            {"questionId": 3, "question": "Who?", "answers": ["Al"]},
            "Who?" + SHORT,
            "Who?" + SHORT,
        ),
        ("textvqa", "tsv", {"question": "what Does BA say?", "answer": "['Al']"}, "What does ba say?" + SHORT, None),
        (
            "textvqa",
            "parquet",
            {"question_id": 3, "question": "what BA?", "answers": ["Al"] * 10},
            None,
            "what BA?" + SHORT,
        ),
        ("chartqa", "tsv", {"question": "Max?", "answer": "7"}, "Max?\nAnswer the question with a single word.", None),
        ("chartqa", "parquet", {"query": "Max?", "label": ["7"], "human_or_machine": 0}, None, "Max?" + SHORT),
        ("ocrbench", "tsv", {"question": " Read. ", "answer": "['a']", "category": "c"}, "Read.", " Read. "),
        (
            "mme",
            "tsv",
            {
                "question": "A dog? Please answer yes or no.",
                "answer": "Yes",
                "category": "count",
                "image_path": "1.png",
            },
            "A dog?" + SHORT,
            "A dog? Please answer yes or no.",
        ),
        (
            "mmbench",
            "tsv",
            {"question": "Which?", "hint": "Look.", "A": "x", "B": "y", "answer": "A"},
            f"Look. Which? There are several options:\nA. x\nB. y\n\n{LETTER}",
            f"Hint: Look.\nQuestion: Which?\nOptions:\nA. x\nB. y\n{SELECT}",
        ),
        (
            "mmbench",
            "parquet",
            {"index": 3, "question": "Which?", "hint": "nan", "A": "x", "B": "y", "C": "nan", "answer": "A"},
            f"Which? There are several options:\nA. x\nB. y\n\n{LETTER}",
            None,
        ),
        (
            "ai2d",
            "parquet",
            {"question": "Which?", "options": ["x", "y"], "answer": "1"},
            f"Which?\nA. x\nB. y\n{LETTER}",
            f"Question: Which?\nOptions:\nA. x\nB. y\n{SELECT}",
        ),
        (
            "mmmu",
            "tsv",
            {"id": "validation_Art_1", "question": "Which?", "A": "x", "B": "y", "answer": "B", "split": "validation"},
            f"Which?\nA. x\nB. y\n\n{LETTER}",
            f"Question: Which?\nOptions:\nA. x\nB. y\n{SELECT}",
        ),
        (
            "mmmu",
            "parquet",
            {"id": "validation_Art_1", "question": "How many?", "options": "[]", "answer": "7"},
            f"How many?\n{SHORT}",
            "Question: How many?\n",
        ),
        (
            "mathvista",
            "tsv",
            {
                "question": "Hint: ...\nQuestion: n?",
                "answer": "7",
                "question_type": "free_form",
                "answer_type": "integer",
            },
            "Hint: ...\nQuestion: n?",
            "Hint: ...\nQuestion: n?",
        ),
    ],
)
def test_each_harness_asks_in_its_own_words(one, name, layout, row, lmms_eval, vlmevalkit):
    for compat, expected in (("lmms-eval", lmms_eval), ("vlmevalkit", vlmevalkit)):
        if expected is not None:
            assert text_of(one(name, layout, row, compat=compat)[1]) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"answer_type": "integer", "answer": "7", "unit": "cm"},
            "n? (Unit: cm)\nAnswer the question using a single integer number.",
        ),
        (
            {"answer_type": "float", "answer": "7.0", "precision": 1.0},
            "n?\nAnswer the question using a single floating-point number with one decimal place.",
        ),
        ({"answer_type": "list", "answer": "[7]"}, "n?\nAnswer the question using a Python list."),
        ({"answer_type": "text", "answer": "x", "choices": ["x", "y"]}, f"n?\nA. x\nB. y\n{LETTER}"),
    ],
)
def test_mathvista_asks_for_the_kind_of_answer(write_parquet, picture, fields, words):
    row = {"pid": "1", "question": "n?", "image": "images/1.jpg", "decoded_image": picture(28, 28), "query": "whole"}
    path = write_parquet("testmini.parquet", [{**row, **fields, "metadata": {"task": "geometry"}}])
    (question,) = load("mathvista").questions(path)
    assert (text_of(question), question.category, len(question.images)) == (words, "geometry", 1)
    (question,) = load("mathvista", compat="vlmevalkit").questions(path)
    assert text_of(question) == "whole"


def test_documents_of_the_server_are_asked(tmp_path, picture):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "x.png").write_bytes(picture(28, 28))
    record = {"questionId": 49153, "question": "Who?", "image": "documents/x.png", "answers": ["Al", "al"]}
    path = tmp_path / "val_v1.0.json"
    path.write_text(json.dumps({"dataset_split": "val", "data": [record]}))
    (question,) = load("docvqa").questions(path)
    assert (question.key, question.part, question.references) == ("49153", "val_v1.0", ("Al", "al"))


@pytest.mark.parametrize(
    ("name", "layout", "row", "compat", "judged"),
    [
        ("chartqa", "tsv", {"question": "Max?", "answer": "['1', '40']"}, "vlmevalkit", {"41 ": 1, "50": 0}),
        ("chartqa", "tsv", {"question": "Max?", "answer": "40"}, "lmms-eval", {"41": 1, "yes ": 0}),
        (
            "textvqa",
            "tsv",
            {"question": "x", "answer": str(["stop"] * 2 + ["go"] * 8)},
            "lmms-eval",
            {"STOP!": 0.6, "go": 1},
        ),
        (
            "ocrbench",
            "tsv",
            {"question": "x", "answer": "['a']", "category": "c"},
            "vlmevalkit",
            {"banana": 1, "ＡＡ": 0},
        ),
        (
            "ocrbench",
            "parquet",
            {"dataset": "HME100k", "question_type": "f", "question": "x", "answer": ["x^2"]},
            "lmms-eval",
            {"x ^ 2": 1, "X^2": 0},
        ),
        (
            "ai2d",
            "tsv",
            {"question": "x", "A": "p", "B": "q", "answer": "B"},
            "lmms-eval",
            {"b": 1, "B. q": 1, "q": None},
        ),
        (
            "ai2d",
            "tsv",
            {"question": "x", "A": "p", "B": "q", "answer": "B"},
            "vlmevalkit",
            {"q": 1, "b": None, "(A)": 0},
        ),
        (
            "mmmu",
            "tsv",
            {"question": "x", "A": "p", "B": "q", "answer": "B"},
            "lmms-eval",
            {"(B)": 1, "A": 0, "x": None},
        ),
        (
            "mmmu",
            "tsv",
            {"question": "x", "A": "p", "B": "q", "answer": "B"},
            "vlmevalkit",
            {"**B**": 1, "A": 0, "x": None},
        ),
        ("mmmu", "tsv", {"question": "x", "answer": "7"}, "lmms-eval", {"it is 7": 1, "8": 0}),
        ("mmmu", "tsv", {"question": "x", "answer": "seven"}, "vlmevalkit", {"it is seven": 1, "eight": None}),
        (
            "mathvista",
            "tsv",
            {"question": "x", "answer": "7", "answer_type": "integer"},
            "lmms-eval",
            {"7": 1, "8": 0, "it is 7": None},
        ),
    ],
)
def test_answers_are_judged_by_the_harness_rule_and_listed_when_unreadable(one, name, layout, row, compat, judged):
    benchmark, question = one(name, layout, row, compat=compat)
    found = {answer: benchmark.judge(question, answer) for answer in judged}
    assert {answer: one.score for answer, one in found.items()} == pytest.approx(judged)
    for judgement in found.values():
        assert (judgement.reason == "no rule reads the answer") == (judgement.score is None)


@pytest.mark.parametrize(
    ("row", "half"),
    [
        ({"type": "human_test"}, "human"),
        ({"type": "augmented_test"}, "augmented"),
        ({"human_or_machine": 0}, "human"),
        ({"human_or_machine": 1}, "augmented"),
        ({"split": "test_augmented"}, "augmented"),
        ({"split": "test"}, ""),
        ({}, ""),
    ],
)
def test_chartqa_knows_its_halves_in_all_layouts(one, row, half):
    assert one("chartqa", "parquet", {"question": "x", "answer": "1", **row})[1].category == half


def test_mmmu_puts_pictures_where_the_text_names_them_and_asks_one_split(write_tsv, picture):
    first, second = picture(28, 28, seed=1), picture(28, 28, seed=2)
    row = {"question": "See <image 2> and <image 1>. Which?", "A": "<image 2>", "B": "none", "answer": "A"}
    rows = [
        {"index": n, "id": f"{split}_Art_Theory_{n}", "image": [first, second], "split": split, **row}
        for n, split in enumerate(["dev", "validation"])
    ]
    path = write_tsv("MMMU_DEV_VAL", rows)
    (question,) = load("mmmu").questions(path)
    assert [part["type"] for part in question.messages[0]["content"]] == [*("text", "image") * 3, "text"]
    assert question.images == (second, first, second)
    assert (question.category, question.part) == ("Art_Theory", "MMMU_DEV_VAL validation")
    assert [q.key for q in load("mmmu", split="dev").questions(path)] == ["dev_Art_Theory_0"]
    bad = write_tsv("MMMU_DEV_VAL", [{**rows[1], "image": first}])
    with pytest.raises(ValueError, match="row 1, question: the text names picture 2, the row has 1"):
        list(load("mmmu").questions(bad))


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        (
            "mme",
            {"question": "x", "category": "count", "answer": "2", "image_path": "1"},
            "answer: '2' is neither yes nor",
        ),
        ("mmbench", {"index": "a", "question": "x", "A": "p", "answer": "A"}, "index: 'a' is no number"),
        ("mmbench", {"question": "x", "answer": "A"}, "A: the row has 0 options"),
        ("ai2d", {"question": "x", "A": "p", "answer": "C"}, "answer: 'C' is none of the options A"),
        ("ocrbench", {"question": "x", "category": "c"}, "answer: is missing"),
        ("chartqa", {"question": "x"}, "answer: is missing"),
        ("mathvista", {"question": "x", "answer_type": "number"}, "answer_type: 'number' is none of text, integer"),
        (
            "mathvista",
            {"question": "x", "answer_type": "text", "choices": "['p']", "answer": "q"},
            "'q' is none of the",
        ),
    ],
)
def test_rows_that_are_no_question_of_the_benchmark_are_named(one, name, row, complaint):
    with pytest.raises(ValueError, match=f"{name}.tsv, row 1, .*{complaint}"):
        one(name, "tsv", row)
