import copy
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mindvl.model.parts import part_of
from mindvl.recipe.curves import read_metrics

FITS = ("language", "warmup", "short", "long", "instruct")
STAGES = ("language", "warmup", "short", "long", "mean", "instruct")
FAMILIES = ("ocr", "counting")
STEPS = 6


@pytest.fixture(scope="module")
def finished(mini_recipe, run_recipe, tmp_path_factory):
    """The mini recipe run to its end: (folder, file, what it printed)."""
    folder = tmp_path_factory.mktemp("recipe")
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(mini_recipe(folder), sort_keys=False))
    ran = run_recipe(file)
    assert ran.status == 0, ran.error
    return folder / "out", file, ran.text


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def changed_parts(before, after):
    """Parts of the model that hold a weight that differs."""
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def model_times(out):
    return {name: (out / name / "model" / "model.safetensors").stat().st_mtime_ns for name in STAGES}


def test_every_stage_leaves_a_model_that_trained_the_parts_of_its_phase(finished):
    out, _, _ = finished
    assert changed_parts(weights(out / "language"), weights(out / "warmup")) == {"projector"}
    assert changed_parts(weights(out / "warmup"), weights(out / "short")) == {"vision", "projector", "language"}
    assert changed_parts(weights(out / "mean"), weights(out / "instruct")) == {"projector", "language"}
    short, long, mean = (weights(out / name) for name in ("short", "long", "mean"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (short[name] + long[name]) / 2)


def test_every_fit_stage_logs_its_loss_and_one_validation(finished):
    out, _, _ = finished
    for name in FITS:
        rows = read_metrics(out / name / "csv" / "metrics.csv")
        assert [row["step"] for row in rows if "train/loss" in row] == [1, 3, 5]
        assert [row["step"] for row in rows if "validation/loss" in row] == [STEPS - 1]


def test_the_results_have_the_documented_shape(finished):
    out, _, _ = finished
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {
        *("scores", "blank_scores", "singles", "average", "resolution", "questions", "metrics", "train_s", "total_s")
    }
    for name in ("scores", "blank_scores"):
        assert set(results[name]) == {*FAMILIES, "mean"}
        assert results[name]["mean"] == pytest.approx(sum(results[name][family] for family in FAMILIES) / 2)
    assert set(results["singles"]) == {"256", "512"}
    numbers = [*results["scores"].values(), *results["singles"].values(), results["average"]]
    assert all(isinstance(number, float) and 0 <= number <= 1 for number in numbers)
    assert results["questions"] == dict.fromkeys(FAMILIES, 3)
    assert 0 < results["train_s"] < results["total_s"]
    resolution = results["resolution"]
    assert set(resolution) == {"selection_split", "grid", "default", "chosen"}
    assert resolution["selection_split"] == "validation"
    assert [(point["min_pixels"], point["max_pixels"]) for point in resolution["grid"]] == [(784, 50176), (784, 3136)]
    assert resolution["default"]["max_pixels"] == 50176
    assert resolution["grid"][1]["mean_visual_tokens"] < resolution["grid"][0]["mean_visual_tokens"]
    assert resolution["chosen"]["test_score"] is not None


def test_every_answer_of_the_final_model_is_written_down(finished):
    out, _, _ = finished
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [answer["source"] for answer in answers] == ["ocr"] * 3 + ["counting"] * 3
    fields = {"key", "source", "question", "answer", "prediction", "metric", "score", "visual_tokens"}
    assert all(set(answer) == fields for answer in answers)
    scores = json.loads((out / "results.json").read_text())["scores"]
    for family in FAMILIES:
        own = [answer["score"] for answer in answers if answer["source"] == family]
        assert scores[family] == pytest.approx(sum(own) / len(own))


def test_the_report_stands_beside_the_results_and_the_terminal_says_where(finished):
    out, _, text = finished
    page = (out / "report.html").read_text()
    assert all(name in page for name in (*FAMILIES, *STAGES))
    assert f"report: {out / 'report.html'}" in text


def test_the_same_recipe_again_repeats_no_stage(finished, run_recipe):
    out, file, _ = finished
    before, results = model_times(out), json.loads((out / "results.json").read_text())
    again = run_recipe(file)
    assert again.status == 0, again.error
    said = [line.split(",")[0] for line in again.text.splitlines() if "finished before" in line]
    assert said == [f"[{number}/6] {name}: finished before" for number, name in enumerate(STAGES, start=1)]
    assert model_times(out) == before
    now = json.loads((out / "results.json").read_text())
    assert all(now[name] == results[name] for name in results if name != "total_s")


@pytest.mark.parametrize("stage", ["warmup", "mean"])
def test_a_stage_without_its_mark_is_run_again_alone(finished, run_recipe, stage):
    out, file, _ = finished
    (out / stage / "done.json").unlink()
    before, curves = weights(out / stage), (out / "warmup" / "csv" / "metrics.csv").read_text()
    again = run_recipe(file)
    assert again.status == 0, again.error
    repeated = [line for line in again.text.splitlines() if line.startswith("[") and "finished before" not in line]
    assert len(repeated) == 1 and f" {stage}: " in repeated[0]
    assert changed_parts(before, weights(out / stage)) == set()
    assert (out / "warmup" / "csv" / "metrics.csv").read_text() == curves


def test_a_stage_killed_before_its_model_was_written_writes_it_the_next_time(finished, run_recipe):
    out, file, _ = finished
    before = weights(out / "instruct")
    (out / "instruct" / "done.json").unlink()
    shutil.rmtree(out / "instruct" / "model")
    again = run_recipe(file)
    assert again.status == 0, again.error
    assert changed_parts(before, weights(out / "instruct")) == set()


@pytest.fixture
def refused(finished, run_recipe, tmp_path):
    """What is said about a changed recipe in the folder of the finished one."""
    _, file, _ = finished

    def run(change):
        recipe = copy.deepcopy(yaml.safe_load(file.read_text()))
        change(recipe)
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        ran = run_recipe(tmp_path / "changed.yaml")
        assert ran.status == 2
        return ran.error.splitlines()[-1]

    return run


def test_changed_steps_are_refused_with_the_stage_and_its_folder(finished, refused):
    out, _, _ = finished
    said = refused(lambda recipe: recipe["stages"][2].update(steps=7))
    assert said.startswith(f"mindvl recipe: stage short in {out} was finished with other settings (")
    assert f"delete {out / 'short'} and the stages that build on it" in said


def test_a_change_early_in_the_chain_is_refused_where_it_is(finished, refused):
    out, _, _ = finished
    said = refused(lambda recipe: recipe["stages"][0].update(sequence_length=300))
    assert said.startswith(f"mindvl recipe: stage language in {out} was finished with other settings (")


def test_other_words_of_the_tokenizer_are_refused(finished, refused):
    out, _, _ = finished
    said = refused(lambda recipe: recipe.update(tokenizer={"words": "what is"}))
    assert said.startswith(f"mindvl recipe: {out / 'tokenizer'} was made of other words (")


def test_other_data_is_refused_with_both_fingerprints(finished, refused, tmp_path):
    out, file, _ = finished
    data = yaml.safe_load((file.parent / "data.yaml").read_text())
    data["seed"] = 9
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    said = refused(lambda recipe: recipe.update(data=str(tmp_path / "data.yaml")))
    assert said.startswith(f"mindvl recipe: {out / 'data'} was rendered with config ")


def test_a_data_config_that_is_no_file_is_named(refused):
    said = refused(lambda recipe: recipe.update(data="/nowhere/data.yaml"))
    assert said == "mindvl recipe: data config /nowhere/data.yaml is not a file"


def test_another_out_starts_anew(finished, run_recipe, tmp_path, monkeypatch):
    _, file, _ = finished
    begun = []
    monkeypatch.setattr("mindvl.recipe.stages.run_stage", lambda recipe, stage, number: begun.append(recipe.out))
    monkeypatch.setattr("mindvl.recipe.finish.finish", lambda recipe, **_: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception, match="stop here"):
        run_recipe(file, "--out", tmp_path / "elsewhere")
    assert begun == [str(tmp_path / "elsewhere")] * 6
    assert (tmp_path / "elsewhere" / "data" / "render.json").is_file()
