"""Benchmarks asked during a validation: one line per question, whatever the batches, and a score with its settings."""

import base64
import csv
import json

import pytest
import torch

from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.phases import BenchmarkFile, Benchmarks, Multitask

SHORT = {"max_new_tokens": 6}


@pytest.fixture
def write_tsv(tmp_path):
    """A table as VLMEvalKit keeps it; pictures given as bytes become base64."""

    def write(name: str, rows: list[dict]) -> str:
        path = tmp_path / f"{name}.tsv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerow(rows[0])
            for row in rows:
                table.writerow([base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in row.values()])
        return str(path)

    return write


@pytest.fixture
def documents(picture):
    """Questions about seven pages of three sizes, as rows."""
    return [
        {
            "index": 10 + n,
            "image": picture(28 * (1 + n % 3), 56, seed=n),
            "question": f"what is {n}?",
            "answer": f"['a{n}']",
        }
        for n in range(7)
    ]


@pytest.fixture
def ask(make_spec, with_weights, make_trainer, tmp_path):
    """Validate a phase with benchmarks and no packs; returns the callback."""

    def run(files: dict, *, out: str = "out", seed: int = 0, validation: dict | None = None, **settings) -> Benchmarks:
        settings = {"decoding": SHORT, **settings}
        callback = Benchmarks(files, out=str(tmp_path / out), **settings)
        phase = with_weights(Multitask(make_spec()), seed=seed)
        trainer = make_trainer(callbacks=(callback,))
        data = PackedShards({}, validation=validation, sequence_length=256, workers=0)
        (callback.logged,) = trainer.validate(phase, data, verbose=False)
        return callback

    return run


@pytest.fixture
def lines(tmp_path):
    def read(label: str = "docvqa", out: str = "out") -> list[dict]:
        return [json.loads(line) for line in (tmp_path / out / f"{label}.jsonl").read_text().splitlines()]

    return read


def test_every_question_has_a_line_and_the_summary_says_what_the_score_is_of(
    ask, write_tsv, documents, lines, tmp_path
):
    (summary,) = ask({"docvqa": write_tsv("DocVQA_VAL", documents)}).summaries.values()
    found = lines()
    assert [line["id"] for line in found] == [str(10 + n) for n in range(7)]
    first = found[0]
    assert first["prompt"] == "<image>what is 0?\nAnswer the question using a single word or phrase."
    assert first["pixels"] == [[28, 56]] and first["visual_tokens"] == 2 and first["references"] == ["a0"]
    assert first["raw"] == first["extracted"] and first["finish"] in ("stop", "length") and first["error"] is None
    assert summary["n"] == summary["asked"] == 7 and summary["parts"] == ["DocVQA_VAL"]
    assert summary["split"] == "validation" and summary["judge"] == "none" and summary["compat"] == "lmms-eval"
    assert (summary["min_pixels"], summary["max_pixels"]) == (784, 64 * 784)
    assert summary["decoding"]["max_new_tokens"] == 6 and summary["decoding"]["temperature"] == 0.0
    assert summary["mean_visual_tokens"] == pytest.approx(sum(line["visual_tokens"] for line in found) / 7)
    assert len(summary["model"]) == 32 and summary["interval"]["confidence"] == 0.95
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written == {"overall": None, "model": summary["model"], "benchmarks": {"docvqa": summary}}


def test_the_score_is_the_mean_of_the_lines_and_is_logged(ask, write_tsv, documents, lines):
    ask({"docvqa": write_tsv("first", documents)}, out="first")
    for row, line in zip(documents, lines(out="first")[:3], strict=False):
        row["answer"] = json.dumps([line["raw"], "another"])
    asked = ask({"docvqa": write_tsv("second", documents)})
    scores = [line["score"] for line in lines()]
    assert scores[:3] == [1.0, 1.0, 1.0] and sum(scores) < 7
    assert asked.summaries["docvqa"]["score"] == pytest.approx(100 * sum(scores) / 7)
    assert asked.logged["eval/docvqa"] == pytest.approx(100 * sum(scores) / 7)


def test_a_picture_that_does_not_open_counts_as_wrong_and_is_listed_and_the_others_are_answered_as_before(
    ask, write_tsv, documents, lines
):
    ask({"docvqa": write_tsv("whole", documents)}, out="whole")
    documents[3]["image"] = b"torn"
    (summary,) = ask({"docvqa": write_tsv("torn", documents)}).summaries.values()
    torn, whole = lines(), lines(out="whole")
    assert [a["raw"] for a in torn if a["id"] != "13"] == [a["raw"] for a in whole if a["id"] != "13"]
    assert torn[3]["raw"] is None and torn[3]["score"] == 0.0 and torn[3]["visual_tokens"] == 0
    assert torn[3]["error"].startswith("not a picture") and "0x" not in torn[3]["error"]
    assert summary["failed"] == [["13", torn[3]["error"]]] and summary["unjudged"] == [] and summary["n"] == 7


def test_a_row_without_a_picture_is_not_asked_blind_but_counts_as_wrong_and_is_listed(ask, write_tsv, documents, lines):
    for row in documents[2:4]:
        row["image"] = ""
    (summary,) = ask({"docvqa": write_tsv("d", documents)}).summaries.values()
    assert summary["failed"] == [[id, "the row has no picture"] for id in ("12", "13")] and summary["n"] == 7
    assert [(line["raw"], line["score"]) for line in lines()[2:4]] == [(None, 0.0)] * 2
    assert all(line["raw"] is not None for line in lines() if line["id"] not in ("12", "13"))
    assert ask({"docvqa": write_tsv("d", documents)}).summaries["docvqa"]["asked"] == 0


def test_a_file_without_pictures_or_with_half_a_pair_is_refused_by_its_place_and_nothing_is_asked(
    ask, write_tsv, documents, tmp_path
):
    blind = [{"img" if key == "image" else key: value for key, value in row.items()} for row in documents]
    complaint = (
        r"benchmarks\.docvqa: .*d\.tsv has no column of pictures \(image or image_path\); there are: index, img, "
    )
    with pytest.raises(ValueError, match=complaint):
        ask({"docvqa": write_tsv("d", blind)})
    half = [{**documents[0], "answer": "Yes", "category": "count", "image_path": "1.png"}]
    with pytest.raises(
        ValueError, match=r"benchmarks\.small: .*m\.tsv: MME asks 2 questions .* picture count/1.png has 1"
    ):
        ask({"small": BenchmarkFile(write_tsv("m", half), benchmark="mme")})
    assert all(len(file.read_text().splitlines()) == 1 for file in (tmp_path / "out" / "answers").iterdir())


def test_an_answer_that_no_rule_reads_is_listed_and_counts_as_wrong(ask, write_tsv, picture, lines):
    rows = [
        {
            "index": n,
            "image": picture(28, 28, seed=n),
            "question": "is it?",
            "answer": "Yes",
            "category": "count",
            "image_path": "1",
        }
        for n in range(2)
    ]
    (summary,) = ask({"mme": write_tsv("MME", rows)}).summaries.values()
    assert [id for id, _ in summary["unjudged"]] == [line["id"] for line in lines("mme") if line["reason"]]
    assert summary["unjudged"] and all(line["score"] == 0.0 for line in lines("mme") if line["reason"])
    assert summary["score"] is not None and summary["failed"] == []


def test_neither_batches_nor_order_change_a_line(ask, write_tsv, documents, lines, monkeypatch):
    file, reversed_file = write_tsv("a", documents), write_tsv("b", documents[::-1])
    ask({"docvqa": file})
    ask({"docvqa": file}, out="one by one", batch_tokens=1)
    ask({"docvqa": reversed_file}, out="reversed")
    monkeypatch.setattr("mindvl.phases.benchmarks_asking.WINDOW", 2)
    ask({"docvqa": file}, out="windows")
    assert lines() == lines(out="one by one") == lines(out="windows")
    assert [{**line, "part": "a"} for line in lines(out="reversed")[::-1]] == lines()


def test_a_run_that_was_stopped_asks_only_what_is_missing(ask, write_tsv, documents, lines, tmp_path):
    files = {"docvqa": write_tsv("d", documents)}
    ask(files, out="whole", batch_tokens=1)
    ask(files, batch_tokens=1)
    answers = tmp_path / "out" / "answers" / "docvqa.rank-00000.jsonl"
    kept = answers.read_bytes().split(b"\n")[:4]
    answers.write_bytes(b"\n".join(kept) + b"\n" + b'{"id": "15", "raw": "hal')
    assert ask(files).summaries["docvqa"]["asked"] == 4
    assert lines() == lines(out="whole")
    assert ask(files).summaries["docvqa"]["asked"] == 0
    assert answers.read_bytes().split(b"\n")[:4] == kept


def test_answers_of_a_stopped_run_are_judged_by_the_references_of_now(ask, write_tsv, documents, lines):
    ask({"docvqa": write_tsv("d", documents)})
    documents[1]["answer"] = json.dumps([lines()[1]["raw"]])
    summary = ask({"docvqa": write_tsv("d", documents)}).summaries["docvqa"]
    assert summary["asked"] == 0 and summary["score"] == pytest.approx(100 * sum(line["score"] for line in lines()) / 7)
    assert (lines()[1]["score"], lines()[1]["references"]) == (1.0, [lines()[1]["raw"]])
    ask({"docvqa": write_tsv("d", documents)}, out="whole")
    assert lines() == lines(out="whole")


def test_a_larger_limit_goes_on_and_a_smaller_one_leaves_answers_out(ask, write_tsv, documents, lines):
    file = write_tsv("d", documents)
    assert ask({"docvqa": BenchmarkFile(file, limit=3)}).summaries["docvqa"]["n"] == 3
    grown = ask({"docvqa": BenchmarkFile(file, limit=5)}, limit=1).summaries["docvqa"]
    assert (grown["n"], grown["asked"], grown["limit"]) == (5, 2, 5)
    shrunk = ask({"docvqa": file}, limit=2).summaries["docvqa"]
    assert (shrunk["n"], shrunk["asked"], len(lines())) == (2, 0, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_pixels": 4 * 784}, "max_pixels: 50176, now 3136"),
        ({"decoding": {"max_new_tokens": 5}}, "decoding.max_new_tokens: 6, now 5"),
        ({"compat": "vlmevalkit"}, "compat: lmms-eval, now vlmevalkit"),
        ({"seed": 1}, "model: .{32}, now .{32}"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_answers_under_other_settings_are_not_mixed(change, said, ask, write_tsv, documents):
    files = {"docvqa": write_tsv("d", documents[:2])}
    ask(files)
    message = rf"docvqa.rank-00000.jsonl holds answers given under other settings \({said}\): name another folder by"
    with pytest.raises(ValueError, match=message):
        ask(files, **change)


def test_a_question_whose_words_or_picture_have_changed_is_refused_by_its_id(ask, write_tsv, documents, picture):
    ask({"docvqa": write_tsv("d", documents[:2])})
    documents[1]["image"] = picture(28, 56, seed=99)
    with pytest.raises(ValueError, match="question 11 of docvqa has other words or pictures than the one that was"):
        ask({"docvqa": write_tsv("d", documents[:2])})


def test_a_benchmark_may_be_asked_twice_at_two_budgets(ask, write_tsv, documents, lines):
    file = write_tsv("d", documents)
    asked = ask({"docvqa": file, "docvqa_small": BenchmarkFile(file, benchmark="docvqa", max_pixels=784)})
    assert {tuple(line["pixels"][0]) for line in lines("docvqa_small")} == {(28, 28)}
    assert asked.summaries["docvqa_small"]["max_pixels"] == 784 and asked.summaries["docvqa"]["max_pixels"] == 64 * 784
    assert set(asked.logged) == {"eval/docvqa", "eval/docvqa_small"}


def test_held_out_packs_have_their_loss_beside_the_benchmarks(ask, write_tsv, documents, corpus):
    validation = {"ocr": Source(str(corpus / "validation" / "ocr-*.tar"))}
    asked = ask({"docvqa": write_tsv("d", documents[:2])}, validation=validation)
    assert set(asked.logged) == {
        "eval/docvqa",
        "validation/loss",
        "validation/loss/ocr",
        "validation/perplexity",
        "validation/perplexity/ocr",
    }


@pytest.fixture
def fit(make_spec, with_weights, make_trainer, corpus):
    """Four steps with a validation after each, and benchmarks if there are any."""

    def run(*callbacks, **settings):
        phase = with_weights(Multitask(make_spec()))
        data = PackedShards({"text": Source(str(corpus / "train" / "text-*.tar"))}, sequence_length=128, workers=0)
        trainer = make_trainer(
            max_steps=4, callbacks=callbacks, val_check_interval=1, check_val_every_n_epoch=None, **settings
        )
        trainer.fit(phase, data)
        return phase, trainer

    return run


def test_a_fit_asks_after_every_so_many_validations_into_a_folder_of_that_step(fit, write_tsv, documents, tmp_path):
    callback = Benchmarks({"docvqa": write_tsv("d", documents[:2])}, every=2, decoding=SHORT)
    phase, trainer = fit(callback)
    folders = sorted((tmp_path / "benchmarks").iterdir())
    assert [folder.name for folder in folders] == ["step-00000002", "step-00000004"]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert summaries[0]["model"] != summaries[1]["model"]
    assert trainer.callback_metrics["eval/docvqa"] == pytest.approx(summaries[1]["benchmarks"]["docvqa"]["score"])
    assert phase.model.training and callback.state_dict() == {"num_validations": 4}


def test_asking_leaves_training_as_it_was(fit, write_tsv, documents):
    quiet_lightning()
    with_benchmarks, _ = fit(Benchmarks({"docvqa": write_tsv("d", documents[:2])}, decoding=SHORT))
    without, _ = fit()
    other = dict(without.model.named_parameters())
    assert all(torch.equal(tensor, other[name]) for name, tensor in with_benchmarks.model.named_parameters())


def test_a_fit_that_comes_by_a_step_again_asks_nothing_unless_its_weights_are_others(
    fit, write_tsv, documents, tmp_path
):
    callback = Benchmarks({"docvqa": write_tsv("d", documents[:2])}, every=4, decoding=SHORT)
    asked = []
    answers = tmp_path / "benchmarks" / "step-00000004" / "answers" / "docvqa.rank-00000.jsonl"
    for other_weights in (False, False, True):
        if other_weights:
            answers.write_text(answers.read_text().replace(callback.summaries["docvqa"]["model"], "0" * 32))
        fit(callback)
        asked.append(callback.summaries["docvqa"]["asked"])
    assert asked == [2, 0, 2]


@pytest.mark.parametrize(
    ("files", "settings", "said"),
    [
        ({}, {}, "benchmarks names no file"),
        ({"docvqq": "x.tsv"}, {}, "benchmarks.docvqq: unknown benchmark 'docvqq'; known are mme, "),
        ({"docvqa": "x.tsv"}, {"every": 0}, "every is 0"),
        ({"docvqa": "x.tsv"}, {"limit": 0}, "benchmarks.docvqa: limit is 0, which leaves no question"),
        ({"docvqa": "x.tsv"}, {"min_pixels": 9, "max_pixels": 4}, "benchmarks.docvqa: min_pixels is 9, more than max"),
        ({"docvqa": "x.tsv"}, {"decoding": {"beams": 4}}, "benchmarks.docvqa: .*unexpected keyword argument 'beams'"),
        ({"docvqa": "x.tsv"}, {"decoding": {"top_p": 2.0}}, "benchmarks.docvqa: top_p is 2.0, outside 0"),
        ({"docvqa": BenchmarkFile("x.tsv", split="dev")}, {}, "benchmarks.docvqa: docvqa has no split 'dev'"),
        ({"a/b": BenchmarkFile("x.tsv", benchmark="docvqa")}, {}, "benchmarks.a/b: a label is made of letters"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_place_in_the_config(files, settings, said):
    with pytest.raises(ValueError, match=said):
        Benchmarks(files, **settings)


def test_a_file_that_is_not_there_is_refused_before_anything_is_asked(ask, tmp_path):
    with pytest.raises(ValueError, match=r"benchmarks.docvqa: .*gone.tsv is not there"):
        ask({"docvqa": str(tmp_path / "gone.tsv")})
