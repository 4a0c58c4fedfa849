import csv
import json
import shutil
from dataclasses import replace
from typing import ClassVar

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from mindvl.cli.resolution import parse_budgets, parse_grid
from mindvl.cli.resolution_questions import divided, load_samples, picture_digests, question_sample
from mindvl.cli.resolution_scorer import AnswererScore, load_scorer, saved_fingerprint
from mindvl.data.questions import load_questions
from mindvl.eval import benchmarks
from mindvl.phases.answering import load_answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.evaluation import evaluate

SHORT = ("--max-new-tokens", 3)


@pytest.fixture(scope="module")
def tsv(picture, tmp_path_factory):
    """A benchmark's file in VLMEvalKit's layout, pictures of unequal sizes."""
    import base64

    folder = tmp_path_factory.mktemp("tsv")

    def write(name, rows):
        path = folder / f"{name}.tsv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            table.writeheader()
            for number, row in enumerate(rows):
                size = row.pop("size", (28 + 28 * (number % 3), 56))
                data = picture(*size, seed=row.pop("seed", number))
                table.writerow(row | {"image": base64.b64encode(data).decode()})
        return path

    return write


@pytest.fixture(scope="module")
def charts(tsv):
    rows = [
        {"image": "", "index": number, "question": f"how many bars, {number}?", "answer": "7", "split": "test_human"}
        for number in range(12)
    ]
    return tsv("ChartQA_TEST", rows)


@pytest.fixture(scope="module")
def pairs(tsv):
    rows = [
        {
            "image": "",
            "index": number,
            "question": f"Is it so, {number}? Please answer yes or no.",
            "answer": ("Yes", "No")[number % 2],
            "category": "existence" if number < 12 else "count",
            "image_path": f"{number // 2}.jpg",
            "seed": number // 2,
            "size": (56, 56),
        }
        for number in range(16)
    ]
    return tsv("MME", rows)


def searched(mindvl, trained, tmp_path, *more):
    return mindvl("resolution", trained.model, "-o", tmp_path / "out", *SHORT, *more)


def shards(corpus, split, source):
    return corpus / split / f"{source}-*.tar"


def test_a_search_over_shards_writes_numbers_curve_and_table(trained, corpus, mindvl, tmp_path):
    select, report = (f"ocr={shards(corpus, split, 'ocr')}" for split in ("train", "validation"))
    settings = ("--select", select, "--report", report, "--limit", 8, "--budgets", "784:3136,784:12544,3136:12544")
    done = searched(mindvl, trained, tmp_path, *settings)
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "out" / "resolution.json").read_text())
    found = record["results"]["ocr"]
    default = load_answerer(trained.model)
    assert (found["default"]["min_pixels"], found["default"]["max_pixels"]) == (default.min_pixels, default.max_pixels)
    assert (len(found["grid"]), found["num_selection"], found["num_report"]) == (4, 8, 8)
    assert (record["select"], record["failed"]) == ([select], [])
    with Image.open(tmp_path / "out" / "resolution.png") as curve:
        assert curve.format == "PNG" and min(curve.size) > 300
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["784-50176", "784-3136", "784-12544", "3136-12544"]
    assert sum("default" in line for line in lines[2:6]) == sum("pick" in line for line in lines[2:6]) == 1
    assert f"{found['difference']['score']:+.3f}" in lines[6]
    assert "warning: ocr has 8 samples to select on and 8 to report on; below 50" in done.err


def test_a_second_search_asks_the_model_nothing_and_finds_the_same(trained, corpus, mindvl, tmp_path):
    settings = ("--select", shards(corpus, "train", "*"), "--select-ratio", 0.5, "--limit", 12)
    first = searched(mindvl, trained, tmp_path, *settings, "--grid", "min=784,3136,max=3136,12544")
    assert first.status == 0, first.err
    record = (tmp_path / "out" / "resolution.json").read_text()
    assert list(json.loads(record)["results"]) == ["counting", "ocr"]
    second = searched(mindvl, trained, tmp_path, *settings, "--grid", "min=784,3136,max=3136,12544")
    assert "scored 0 samples" in second.out and "scored 0 samples" not in first.out
    assert (tmp_path / "out" / "resolution.json").read_text() == record


def test_halving_goes_through_the_same_door(trained, charts, mindvl, tmp_path):
    settings = ("--select", f"chartqa={charts}", "--select-ratio", 0.5, "--method", "halving", "--default", "784:784")
    done = searched(mindvl, trained, tmp_path, *settings, "--budgets", "784:1568,784:3136,784:12544")
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "resolution.json").read_text())["results"]["chartqa"]
    assert (found["method"], found["eta"], [rung["num_budgets"] for rung in found["rungs"]]) == ("halving", 2, [4, 2])
    assert found["num_selection"] + found["num_report"] == 12


def test_wandb_gets_numbers_and_curve(trained, charts, mindvl, tmp_path, monkeypatch):
    class Board(CSVLogger):
        images: ClassVar[list] = []

        def log_image(self, key, images, step):
            self.images.append((key, images[0].dtype, step))

    monkeypatch.setattr("mindvl.cli.loggers.default_loggers", lambda root, *, name: [Board(root, name, "csv")])
    settings = ("--select", f"chartqa={charts}", "--select-ratio", 0.5, "--budgets", "784:784", "--wandb")
    done = searched(mindvl, trained, tmp_path, *settings)
    assert done.status == 0, done.err
    assert Board.images == [("resolution/curve", "uint8", 0)]
    with (tmp_path / "out" / "resolution" / "csv" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    found = json.loads((tmp_path / "out" / "resolution.json").read_text())["results"]["chartqa"]
    assert float(row["resolution/chartqa/difference"]) == found["difference"]["score"]


def test_scores_of_the_search_are_those_of_an_evaluation_at_the_budget(trained, corpus):
    wide, narrow = (784, 12544), (784, 784)

    def evaluated(questions, budget):
        low, high = budget
        answerer = load_answerer(trained.model, min_pixels=low, max_pixels=high)
        return evaluate(answerer, questions, Decoding(max_new_tokens=6))

    asked = [q for q in load_questions("ocr", shards(corpus, "train", "ocr")) if q.images][:10]
    # What the model says at the wide budget is right from now on, so that scores are not all zero.
    questions = [
        replace(item.question, answer=item.prediction, metric="exact_match") for item in evaluated(asked, wide)
    ]
    samples = [question_sample(question, benchmark="ocr", max_new_tokens=6) for question in questions]
    scorer = load_scorer(trained.model, batch_size=4)
    assert sum(scorer(samples, wide)) == 10
    for budget in (wide, narrow):
        judged = evaluated(questions, budget)
        assert scorer(samples, budget) == [item.score for item in judged]
        tokens = [sum(rows * columns for rows, columns in scorer.grid_of(sample, budget)) for sample in samples]
        assert tokens == [item.visual_tokens for item in judged]


def test_a_group_of_questions_is_one_sample_and_their_mean_is_the_benchmarks_score(pairs):
    samples = load_samples(f"mme={pairs}")
    assert [len(sample.content.prompts) for sample in samples] == [2] * 8
    assert [sample.stratum for sample in samples] == ["existence"] * 6 + ["count"] * 2
    benchmark = benchmarks.load("mme")
    questions = list(benchmark.questions(pairs))
    answers = ["Yes"] * 5 + ["No"] * 4 + ["Yes", "No"] * 3 + ["no idea"]
    whole = benchmark.summarise([benchmark.judge(*asked) for asked in zip(questions, answers, strict=True)])
    scores = [sample.content.judge(answers[2 * number : 2 * number + 2]) for number, sample in enumerate(samples)]
    existence, count = sum(scores[:6]) / 6, sum(scores[6:]) / 2
    assert whole.score == pytest.approx(100 * (existence + count) / 2)
    assert 0 < whole.score < 100


def test_a_benchmarks_questions_are_judged_by_its_own_rule(charts):
    (sample, *_) = load_samples(f"chartqa={charts}", limit=3)
    assert [sample.content.judge([answer]) for answer in ("7.2", "8", None)] == [1.0, 0.0, 0.0]
    assert sample.content.max_new_tokens == benchmarks.load("chartqa").max_new_tokens


def test_a_picture_that_cannot_be_shown_is_wrong_at_every_budget_and_listed(trained, tsv, mindvl, tmp_path):
    sizes = [(2, 402), (2, 400), (1, 1), *[(56, 56)] * 5]  # ratios 201 and 200; one pixel
    rows = [
        {"image": "", "index": number, "question": f"{number}?", "answer": "7", "split": "test_human", "size": size}
        for number, size in enumerate(sizes)
    ]
    source = f"chartqa={tsv('odd', rows)}"
    samples = load_samples(source)
    assert [bool(sample.content.failure) for sample in samples] == [True] + [False] * 7
    scorer = load_scorer(trained.model)
    assert scorer(samples[:1], (784, 784)) == [0.0]
    assert scorer.grid_of(samples[0], (784, 784)) == ()
    done = searched(mindvl, trained, tmp_path, "--select", source, "--select-ratio", 0.5, "--budgets", "784:784")
    assert done.status == 0, done.err
    (failed,) = json.loads((tmp_path / "out" / "resolution.json").read_text())["failed"]
    assert failed["benchmark"] == "chartqa" and "ratio must be smaller than 200" in failed["reason"]


def test_all_questions_about_a_picture_stay_on_one_side(pairs, tsv):
    rows = [
        {
            "image": "",
            "index": number,
            "question": f"{number}?",
            "answer": "7",
            "split": "test_human",
            "seed": number // 3,
            "size": (28, 28),
        }
        for number in range(60)
    ]
    samples = load_samples(f"chartqa={tsv('shared', rows)}")
    select, report = divided(samples, 0.4)
    assert sorted(one.key for one in [*select, *report]) == sorted(one.key for one in samples)
    sides = [{digest for one in side for digest in picture_digests(one)} for side in (select, report)]
    assert not sides[0] & sides[1] and all(sides)
    assert [one.key for one in divided(samples[::-1], 0.4)[0]] == [one.key for one in select[::-1]]


def test_the_same_questions_on_both_sides_are_refused(trained, charts, mindvl, tmp_path):
    source = f"chartqa={charts}"
    refused = searched(mindvl, trained, tmp_path, "--select", source, "--report", source, "--budgets", "784:3136")
    assert refused.status == 2
    assert refused.complaint.startswith(
        "mindvl resolution: chartqa: 12 samples are both selected on and reported, such as '0 "
    )
    assert "warning: chartqa selects on 12 of the 12 pictures that it reports on" in refused.err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("--budgets", "784:3136,900:800"), "budget 900:800 has min_pixels 900, more than its max_pixels 800"),
        (("--budgets", "784-3136"), "budget '784-3136' is not LOW:HIGH, two numbers of pixels such as 784:50176"),
        (("--grid", "min=784,max=3136,big"), "--grid 'min=784,max=3136,big': 'big' is neither a number of pixels"),
        (("--grid", "min=9,max=8"), "no budget: the smallest min_pixels is 9, the largest max_pixels 8"),
        (("--budgets", "1:2", "--select-ratio", 1.5), "--select-ratio is 1.5, not between 0 and 1"),
        (("--budgets", "1:2", "--default", "1:2,1:3"), "--default 1:2,1:3 names 2 budgets, not 1"),
        (("--budgets", "1:2"), "give either --report or --select-ratio"),
    ],
)
def test_arguments_that_cannot_work_are_refused_in_one_line(trained, mindvl, tmp_path, change, complaint):
    ratio = () if change == ("--budgets", "1:2") or "--select-ratio" in change else ("--select-ratio", 0.5)
    refused = searched(mindvl, trained, tmp_path, "--select", "nothing-*.tar", *ratio, *change)
    assert refused.status == 2
    assert refused.complaint.startswith(f"mindvl resolution: {complaint}")


def test_sources_that_cannot_be_read_are_refused_by_name(charts, tmp_path):
    with pytest.raises(ValueError, match=r"docs=x\.tsv: x\.tsv is no shard, and docs no benchmark \(mme, mmbench"):
        load_samples("docs=x.tsv")
    with pytest.raises(ValueError, match="shards have no split 'val'"):
        load_samples("ocr:val=x-*.tar")
    with pytest.raises(ValueError, match="chartqa has no split 'dev'; there are: test, val, train"):
        load_samples(f"chartqa:dev={charts}")


def test_a_folder_that_is_no_model_is_refused(mindvl, tmp_path):
    budgets = ("--select", "x.tar", "--select-ratio", 0.5, "--budgets", "1:2", "-o", tmp_path)
    refused = mindvl("resolution", tmp_path, *budgets)
    assert refused.complaint == f"mindvl resolution: {tmp_path} is no saved model: it has no config.json"


def test_a_grid_is_all_pairs_and_says_what_it_leaves_out(capsys):
    assert parse_grid("min=1,9 max=4,9") == parse_grid("min=1,9,max=4,9") == [(1, 4), (1, 9), (9, 9)]
    assert "1 pairs have a minimum above their maximum, 3 are tried" in capsys.readouterr().err
    assert parse_budgets("1:4, 9:9") == [(1, 4), (9, 9)]


def test_the_fingerprint_is_of_weights_and_settings(trained, tmp_path):
    copy = shutil.copytree(trained.model, tmp_path / "copy")
    assert saved_fingerprint(copy, 3) == saved_fingerprint(trained.model, 3)
    assert saved_fingerprint(copy, 4) != saved_fingerprint(copy, 3)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert saved_fingerprint(copy, 3) != saved_fingerprint(trained.model, 3)


def test_the_scorer_says_how_far_it_is(make_model, tokenizer, charts, capsys, monkeypatch):
    from mindvl.cli import resolution_scorer
    from mindvl.phases.answering import Answerer

    monkeypatch.setattr(resolution_scorer, "_SAY_EVERY_S", -1.0)
    scorer = AnswererScore(Answerer(make_model(), tokenizer), progress=True)
    scorer(load_samples(f"chartqa={charts}", limit=2, max_new_tokens=1), (784, 784))
    assert capsys.readouterr().err.startswith("2 samples scored in ")
