"""MME's pairs and MMBench's rotations: limits take them whole, scores need them whole."""

import pytest

from mindvl.eval.benchmarks import load
from mindvl.eval.metrics.mme import CATEGORIES

STEP = 1_000_000


@pytest.fixture
def mme_file(write_tsv, picture):
    """All categories, two pictures in each, a question whose answer is yes and one whose answer is no."""
    image = picture(28, 28)
    rows = [
        {"category": name, "image_path": f"{name}/{number}.png", "question": f"{name}?", "answer": answer, "image": "0"}
        for name in CATEGORIES
        for number in (0, 1)
        for answer in ("Yes", "No")
    ]
    return write_tsv("MME", [{"index": n, **row, **({"image": image} if n == 0 else {})} for n, row in enumerate(rows)])


@pytest.fixture
def mmbench_file(write_tsv, picture):
    """Two questions of three and two options; rotations stand behind all first rows and point at their pictures."""
    texts = {1: ["x", "y", "z"], 2: ["p", "q"]}
    rows = []
    for rotation in range(3):
        for index, options in texts.items():
            if rotation < len(options):
                turned = options[rotation:] + options[:rotation]
                answer = "ABC"[turned.index(options[0])]
                image = str(index) if rotation else picture(28, 28, seed=index)
                columns = {**dict(zip("ABC", turned, strict=False)), "answer": answer, "category": f"c{index}"}
                rows.append({"index": index + rotation * STEP, "question": "Which?", **columns, "image": image})
    return write_tsv("MMBench_DEV_EN_V11", rows)


def judge_all(benchmark, path, answer, limit=None):
    return [benchmark.judge(question, answer(question)) for question in benchmark.questions(path, limit)]


@pytest.mark.parametrize("compat", ["lmms-eval", "vlmevalkit"])
def test_mme_is_100_percent_and_2800_points_when_all_is_right(mme_file, compat):
    benchmark = load("mme", compat=compat)
    found = benchmark.summarise(judge_all(benchmark, mme_file, lambda question: question.references[0]))
    assert found.score == 100
    assert found.details == {"perception": 2000, "cognition": 800, "total": 2800, "num_categories": 14}
    assert (found.num_questions, found.num_scored, len(found.by_category)) == (56, 28, 14)
    assert (found.interval.low, found.interval.high) == (100, 100)


def test_saying_yes_to_everything_earns_half_the_accuracy_and_no_bonus(mme_file):
    benchmark = load("mme")
    found = benchmark.summarise(judge_all(benchmark, mme_file, lambda question: "Yes."))
    assert (found.details["total"], found.score) == (14 * 50, 25)
    assert set(found.by_category.values()) == {50}


def test_an_unreadable_answer_of_mme_is_wrong_and_listed(mme_file):
    benchmark = load("mme")
    judged = judge_all(benchmark, mme_file, lambda q: "perhaps" if q.key == "count/count/0.png 2" else q.references[0])
    found = benchmark.summarise(judged)
    assert found.unjudged == (("count/count/0.png 2", "no rule reads the answer"),)
    assert found.by_category["count"] == 75 + 50
    assert found.score == (2800 - 75) / 28


def test_a_limit_of_mme_takes_pictures_with_both_questions(mme_file):
    benchmark = load("mme", compat="vlmevalkit")
    judged = judge_all(benchmark, mme_file, lambda question: question.references[0], limit=3)
    assert [one.key for one in judged[:2]] == ["existence/existence/0.png 1", "existence/existence/0.png 2"]
    assert [one.group for one in judged[2::2]] == ["count/count/0.png", "position/position/0.png"]
    assert (len(judged), benchmark.summarise(judged).score) == (6, 100)


def test_the_pairs_of_the_hub_share_an_id_and_get_keys_of_their_own(write_parquet, picture):
    rows = [
        {
            "question_id": "OCR/0001.jpg",
            "question": f"{answer}?",
            "answer": answer,
            "category": "OCR",
            "image": picture(28, 28),
        }
        for answer in ("Yes", "No")
    ]
    asked = list(load("mme").questions(write_parquet("test.parquet", rows)))
    assert [question.key for question in asked] == ["OCR/OCR/0001.jpg 1", "OCR/OCR/0001.jpg 2"]
    assert {question.group for question in asked} == {"OCR/OCR/0001.jpg"}


def test_half_a_pair_is_an_error(mme_file):
    benchmark = load("mme")
    judged = judge_all(benchmark, mme_file, lambda question: "Yes")
    with pytest.raises(ValueError, match=r"category code_reasoning, picture .*1\.png has 1"):
        benchmark.summarise(judged[:-1])


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("mme", {"category": "count", "image_path": "1.png", "answer": "Yes"}, "category count, picture .*1.png has 1"),
        ("mme", {"category": "Count", "image_path": "1.png", "answer": "Yes"}, "MME has no category 'Count'"),
        ("mmbench", {"A": "x", "B": "y", "answer": "A"}, "question 7 has 2 options .* 1 are there: 0"),
    ],
)
def test_what_is_missing_in_a_file_is_named_before_the_first_question_comes(write_tsv, picture, name, row, complaint):
    path = write_tsv("X", [{"index": 7, "image": picture(28, 28), "question": "q", **row}])
    with pytest.raises(ValueError, match=rf"X\.tsv: .*{complaint}"):
        next(load(name).questions(path))


def test_a_question_of_mmbench_counts_when_all_rotations_are_right(mmbench_file):
    benchmark = load("mmbench")
    assert len({question.images for question in benchmark.questions(mmbench_file)}) == 2
    judged = judge_all(benchmark, mmbench_file, lambda q: "A" if q.group == "1" else q.references[0])
    found = benchmark.summarise(judged)
    assert (found.score, found.by_category) == (50, {"c1": 0, "c2": 100})
    assert (found.num_scored, found.num_questions, found.parts) == (2, 5, ("MMBench_DEV_EN_V11",))


def test_a_failed_rotation_costs_its_question(mmbench_file):
    benchmark = load("mmbench")
    judged = judge_all(benchmark, mmbench_file, lambda q: None if q.key == "1000002" else q.references[0])
    found = benchmark.summarise(judged)
    assert (found.score, found.unjudged) == (50, (("1000002", "not answered"),))


def test_a_limit_of_mmbench_takes_questions_with_all_rotations(mmbench_file):
    asked = list(load("mmbench").questions(mmbench_file, limit=1))
    assert [question.key for question in asked] == ["1", "1000001", "2000001"]


def test_a_missing_rotation_is_an_error(mmbench_file):
    benchmark = load("mmbench")
    judged = judge_all(benchmark, mmbench_file, lambda question: question.references[0])
    with pytest.raises(ValueError, match="question 1 has 3 options and so rotations 0 to 2; 2 are there: 0, 1"):
        benchmark.summarise([one for one in judged if one.key != "2000001"])


def test_languages_of_one_repository_lie_in_folders(write_parquet, picture, tmp_path):
    for language in ("en", "cn"):
        row = {"index": 1, "question": language, "A": "x", "answer": "A", "image": picture(28, 28)}
        write_parquet(f"MMBench/{language}/dev-00000-of-00001.parquet", [row])
    (question,) = load("mmbench", language="cn").questions(tmp_path / "MMBench")
    assert question.part == "MMBench/cn dev"


def test_ocrbench_counts_hits(write_tsv, picture):
    rows = [
        {"index": n, "image": picture(28, 28), "question": "Read.", "answer": "['ab']", "category": category}
        for n, category in enumerate(["Scene Text-centric VQA", "Digit String Recognition"])
    ]
    benchmark = load("ocrbench")
    found = benchmark.summarise(
        judge_all(benchmark, write_tsv("OCRBench", rows), lambda q: "xABx" if q.key == "0" else "")
    )
    assert (found.score, found.details) == (50, {"hits": 1})
    assert found.by_category == {"Digit String Recognition": 0, "Scene Text-centric VQA": 100}
