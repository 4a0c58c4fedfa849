import copy
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mindvl.cli.resolution_questions import picture_digests
from mindvl.cli.resolution_scorer import AnswererScore
from mindvl.recipe.loading import load_recipe
from mindvl.recipe.study_scores import StudyScorer, weights_fingerprint

ROWS = ["short", "long", "mean", "soup"]
BUDGETS = [[784, 50176], [784, 3136], [12544, 50176]]
FILES = ("study.json", "study.md", "study.png")


@pytest.fixture(scope="module")
def finished(mini_recipe, run_recipe, tmp_path_factory):
    """A study of two lengths, their mean and their soup, run to its end: (folder, file, what it printed)."""
    folder = tmp_path_factory.mktemp("study")
    recipe = copy.deepcopy(mini_recipe(folder))
    warmup, short, long, mean = recipe["stages"][1:5]
    del warmup["start_from"], recipe["report"]
    short |= {"seed": 5, "pixels": [784, 3136]}
    recipe["stages"] = [warmup, short, long, mean, {"name": "soup", "average": ["short", "long"], "greedy": True}]
    recipe["study"] = {
        "rows": ROWS,
        "families": {"seen": ["ocr"], "unseen": ["counting"]},
        "budgets": BUDGETS,
        "selection_questions": 3,
        "questions": 4,
        "max_new_tokens": 2,
    }
    recipe["mixtures"]["pictures"] = {"ocr": 1}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    ran = run_recipe(file)
    assert ran.status == 0, ran.error
    return folder / "out", file, ran.text


@pytest.fixture
def asked(monkeypatch):
    """(sample, budget) of all that models are asked, in order."""
    seen = []
    answer = AnswererScore.__call__

    def counted(self, samples, budget):
        seen.extend((sample.key, budget) for sample in samples)
        return answer(self, samples, budget)

    monkeypatch.setattr(AnswererScore, "__call__", counted)
    return seen


def test_every_model_has_its_scores_on_every_question_of_every_family(finished):
    out, _, _ = finished
    record = json.loads((out / "study.json").read_text())
    assert [row["stage"] for row in record["rows"]] == ROWS
    for row in record["rows"]:
        assert list(row["families"]) == ["ocr", "counting"]
        for scores in row["families"].values():
            assert len(scores["default"]) == len(scores["searched"]) == 4
            assert scores["picked"] in BUDGETS and scores["moved"] == (scores["picked"] != BUDGETS[0])
            assert scores["selection_searched"] >= scores["selection_default"]
    assert list(record["groups"]) == ["seen", "unseen"]
    for group, name in (("seen", "ocr"), ("unseen", "counting")):
        for row in record["rows"]:
            facts = record["groups"][group][row["stage"]]
            assert facts["default"]["score"] == pytest.approx(sum(row["families"][name]["default"]) / 4)
            assert facts["difference"]["verdict"] in ("helps", "hurts", "within noise")


def test_the_tables_stand_in_the_file_and_on_the_terminal(finished):
    out, _, text = finished
    tables = (out / "study.md").read_text()
    assert tables in text and all(f"| `{name}` |" in tables for name in ROWS)
    assert "## seen: 1 families, 4 test questions" in tables and "## unseen: 1 families" in tables
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")


def test_the_soup_is_the_mean_of_what_it_kept_by_validation_scores(finished):
    out, file, _ = finished
    record = json.loads((out / "soup" / "model" / "averaging.json").read_text())
    scorer = StudyScorer(load_recipe(file))
    for trial in record["trials"]:
        name = trial["path"].split("/")[-2]
        assert trial["score"] == scorer.selection_score(out / name / "model")
    kept = [trial["path"].split("/")[-2] for trial in record["trials"] if trial["kept"]]
    rows = {row["stage"]: row for row in json.loads((out / "study.json").read_text())["rows"]}
    assert rows["soup"]["kept"] == kept and rows["mean"]["kept"] == ["short", "long"] and not rows["short"]["kept"]
    members = [load_file(out / name / "model" / "model.safetensors") for name in kept]
    for key, tensor in load_file(out / "soup" / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, sum(member[key] for member in members) / len(members))


def test_no_picture_both_selects_and_reports(finished):
    _, file, _ = finished
    scorer = StudyScorer(load_recipe(file))
    sides = [
        {digest for sample in side for digest in picture_digests(sample)} for side in (scorer.selection, scorer.report)
    ]
    assert all(sides) and not sides[0] & sides[1]
    assert {sample.key.split()[0] for sample in scorer.selection} == {"validation"}
    assert {sample.key.split()[0] for sample in scorer.report} == {"test"}


def test_the_same_command_again_asks_nothing_and_writes_the_same_files(finished, run_recipe, asked):
    out, file, _ = finished
    before = {name: (out / name).read_bytes() for name in FILES}
    again = run_recipe(file)
    assert again.status == 0, again.error
    assert not asked and {name: (out / name).read_bytes() for name in FILES} == before


def test_a_study_killed_amid_soup_and_scores_ends_with_the_same_tables(finished, run_recipe, asked):
    out, file, _ = finished
    before = {name: (out / name).read_bytes() for name in FILES}
    for name in FILES:
        (out / name).unlink()
    shutil.rmtree(out / "soup")
    scores = out / "scores" / weights_fingerprint(out / "long" / "model", 2) / "scores-0.jsonl"
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:-3]) + lines[-3][:20])  # three are lost, one of them half written
    again = run_recipe(file)
    assert again.status == 0, again.error
    assert len(asked) == 3
    assert {name: (out / name).read_bytes() for name in FILES} == before


def test_other_selection_questions_are_refused_for_a_finished_soup(finished, run_recipe, tmp_path):
    out, file, _ = finished
    recipe = yaml.safe_load(file.read_text())
    recipe["study"]["selection_questions"] = 2
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    ran = run_recipe(tmp_path / "changed.yaml")
    assert ran.status == 2
    assert f"stage soup in {out} was finished with other settings (" in ran.error


def test_weights_decide_what_is_asked_again_and_nothing_else(finished, tmp_path):
    out, _, _ = finished
    shutil.copytree(out / "short" / "model", tmp_path / "copy")
    (tmp_path / "copy" / "averaging.json").write_text("{}")
    prints = [weights_fingerprint(folder, 2) for folder in (out / "short" / "model", tmp_path / "copy")]
    assert prints[0] == prints[1] != weights_fingerprint(out / "long" / "model", 2)
    assert prints[0] != weights_fingerprint(tmp_path / "copy", 3)


def test_a_family_without_pictures_is_refused_by_name(finished):
    _, file, _ = finished
    recipe = load_recipe(file)
    recipe.study.families["text"] = ["text_ocr"]
    with pytest.raises(ValueError, match="family text_ocr has 0 validation questions with pictures, fewer than 2"):
        _ = StudyScorer(recipe).selection
