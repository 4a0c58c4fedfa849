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


def test_validate_takes_the_weights_that_the_run_has_left_and_says_so(trained, mindvl):
    validated = mindvl("validate", "-c", trained.config)
    assert validated.status == 0, validated.err
    assert f"weights of {trained.root}/checkpoints/last.ckpt" in validated.err
    assert shown(validated, "validation/loss") == pytest.approx(trained.metrics[-1]["validation/loss"], rel=1e-5)


def test_validate_takes_the_start_weights_when_asked(trained, mindvl):
    fresh = mindvl("validate", "-c", trained.config, "--ckpt_path", "start")
    assert fresh.status == 0, fresh.err
    assert "fresh weights: nothing has been trained" in fresh.err
    assert shown(fresh, "validation/loss") > trained.metrics[-1]["validation/loss"] + 0.1

    start = ("--ckpt_path", "start", "--model.init_args.model.start_from", trained.model)
    saved = mindvl("validate", "-c", trained.config, *start)
    assert saved.status == 0 and f"weights of model.start_from {trained.model}" in saved.err
    assert shown(saved, "validation/loss") == pytest.approx(trained.metrics[-1]["validation/loss"], rel=1e-5)


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_test_and_predict_say_whose_weights_answer(verb, trained, mindvl):
    called = mindvl(verb, "-c", trained.config)
    assert called.status == 0, called.err
    assert f"weights of {trained.root}/checkpoints/last.ckpt" in called.err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_explains_whose_weights_it_takes(verb, mindvl):
    said = " ".join(mindvl(verb, "--help").out.split())
    assert "newest checkpoint under trainer.default_root_dir" in said and "with --ckpt_path start" in said


def test_validate_with_nothing_to_validate_is_refused(trained, mindvl):
    refused = mindvl("validate", "-c", trained.config, "--data.init_args.validation", "null")
    assert refused.status == 2
    assert refused.complaint == (
        "mindvl validate: there is nothing to validate: data.validation names no source, and trainer.callbacks holds "
        "no mindvl.phases.Benchmarks"
    )


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


def test_imported_conversations_are_asked_turn_by_turn_and_judged_by_exact_match(trained, mindvl, tmp_path, picture):
    turns = [("human", "<image>\nWhich colour?"), ("gpt", "Red."), ("human", "Which shape?"), ("gpt", "A circle.")]
    conversations = [{"from": speaker, "value": words} for speaker, words in turns]
    records = [{"id": str(n), "image": f"{n}.png", "conversations": conversations} for n in range(3)]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(picture(56, 84, seed=n))
    imported = mindvl("data", "import", tmp_path / "mine.json", tmp_path / "mine", "--images", tmp_path)
    assert imported.status == 0, imported.err

    source = json.dumps({"mine": {"shards": str(tmp_path / "mine")}})
    asking = ("-c", trained.config, "--data.init_args.test", source, "--data.init_args.max_questions", "6")
    asking += ("--model.init_args.model.start_from", trained.model)
    predicted = mindvl("predict", *asking)
    assert predicted.status == 0, predicted.err
    answers = [json.loads(line) for line in predicted.out.splitlines()]
    asked = [(answer["question"].strip(), answer["answer"]) for answer in answers]
    assert asked == 3 * [("Which colour?", "Red.")] + 3 * [("Which shape?", "A circle.")]
    assert not any("error" in answer for answer in answers)
    right = [answer["prediction"].strip().lower() == answer["answer"].lower() for answer in answers]
    assert [answer["score"] for answer in answers] == [float(each) for each in right]
    tested = mindvl("test", *asking)
    assert shown(tested, "test/mine") == pytest.approx(sum(right) / 6)
