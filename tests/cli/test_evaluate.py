import json

import pytest


def shown(called, key):
    """The number beside a key in Lightning's table of results."""
    rows = [line.replace("│", " ").split() for line in called.out.splitlines()]
    (number,) = [row[1] for row in rows if row[:1] == [key]]
    return float(number)


@pytest.mark.parametrize("source", ["checkpoint", "model"])
def test_validate_finds_the_loss_of_the_run_in_its_checkpoint_and_in_its_model(trained, mindvl, source):
    where = {
        "checkpoint": ("--ckpt_path", trained.root / "checkpoints" / "last.ckpt"),
        "model": ("--model.init_args.model.start_from", trained.model),
    }[source]
    validated = mindvl("validate", "-c", trained.config, *where)
    assert validated.status == 0, validated.err
    assert shown(validated, "validation/loss") == pytest.approx(trained.metrics[-1]["validation/loss"], rel=1e-5)


def test_test_scores_the_questions_of_each_source(trained, mindvl):
    tested = mindvl("test", "-c", trained.config, "--model.init_args.model.start_from", trained.model)
    assert tested.status == 0, tested.err
    assert all(0 <= shown(tested, f"test/{source}") <= 1 for source in ("ocr", "counting"))


def test_test_without_a_source_is_refused(trained, mindvl):
    refused = mindvl("test", "-c", trained.config, "--data.init_args.test", "null")
    assert refused.status == 2
    assert refused.complaint == "mindvl test: data.test names no source, there is nothing to ask"


def test_predict_prints_one_record_per_question(trained, mindvl):
    predicted = mindvl("predict", "-c", trained.config, "--ckpt_path", trained.root / "checkpoints" / "last.ckpt")
    assert predicted.status == 0, predicted.err
    records = [json.loads(line) for line in predicted.out.splitlines() if line.startswith("{")]
    assert sorted(record["source"] for record in records) == ["counting"] * 3 + ["ocr"] * 3
    assert all(set(record) == {"key", "source", "question", "answer", "prediction", "score"} for record in records)
