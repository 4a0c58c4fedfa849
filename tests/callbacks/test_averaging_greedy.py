import json
import sys

import pytest
import torch
from mindvl_callbacks import command_score, greedy_soup
from safetensors.torch import load_file, save_file


@pytest.fixture
def models(tmp_path):
    """Models of one weight, 0.0, 4.0, 6.0 and 20.0."""
    paths = []
    for name, value in {"a": 0.0, "b": 4.0, "c": 6.0, "d": 20.0}.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor([value])}, tmp_path / name / "model.safetensors")
        paths.append(tmp_path / name)
    return paths


def weight(path):
    return load_file(path / "model.safetensors")["w"].item()


def near(target, asked=None):
    def score(path):
        if asked is not None:
            asked.append(weight(path))
        return -abs(weight(path) - target)

    return score


def test_a_model_is_added_when_the_score_does_not_fall(models, tmp_path):
    """Near 3: b -1, a -3, c -3, d -17. b+a = 2 is as near as b: kept; b+a+c = 3.33 is nearer: kept; with d no more."""
    asked = []
    record = greedy_soup(models, tmp_path / "soup", score=near(3.0, asked))
    assert weight(tmp_path / "soup") == pytest.approx(10 / 3)
    assert asked == pytest.approx([0, 4, 6, 20, 2, 10 / 3, 7.5])
    assert record == json.loads((tmp_path / "soup" / "averaging.json").read_text())
    assert [(trial["path"][-1], trial["kept"]) for trial in record["trials"]] == [
        ("b", True),
        ("a", True),
        ("c", True),
        ("d", False),
    ]
    assert record["method"] == "greedy soup" and record["score"] == pytest.approx(-1 / 3)
    assert [trial["score"] for trial in record["trials"]] == [-1, -3, -3, -17]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d", "soup"]


def test_the_best_model_alone_can_be_the_soup(models, tmp_path):
    record = greedy_soup(models, tmp_path / "soup", score=near(20.0))
    assert weight(tmp_path / "soup") == 20.0 and len(record["sources"]) == 1


def test_a_loss_is_better_when_it_is_lower(models, tmp_path):
    score = near(3.0)
    record = greedy_soup(models, tmp_path / "soup", score=lambda path: -score(path), lower_is_better=True)
    assert weight(tmp_path / "soup") == pytest.approx(10 / 3) and record["score"] == pytest.approx(1 / 3)


def test_models_without_a_mean_are_refused_before_anything_is_scored(models, tmp_path):
    save_file({"v": torch.ones(1)}, models[1] / "model.safetensors")
    with pytest.raises(ValueError, match="hold different keys"):
        greedy_soup(models, tmp_path / "soup", score=lambda path: pytest.fail("scored"))


def test_a_score_that_is_no_number_is_refused(models, tmp_path):
    with pytest.raises(ValueError, match=r"the score of .*a is nan"):
        greedy_soup(models, tmp_path / "soup", score=lambda path: float("nan"))
    assert not (tmp_path / "soup").exists()


def test_a_command_scores_without_a_shell(tmp_path):
    folder = tmp_path / "a folder; touch mark $(touch mark)"
    script = tmp_path / "score.py"
    script.write_text("import sys\nprint('loading', sys.argv[1])\nprint(len(sys.argv))\n\n")
    score = command_score(f"{sys.executable} {script} --model={{model}} 'two words'")
    assert score(folder) == 3.0
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('good')", "last line for m is no number: 'good'"),
        ("pass", "last line for m is no number: ''"),
        ("print(1.0); raise SystemExit(3)", "the score command ended with 3 for m"),
    ],
)
def test_a_command_that_gives_no_score_is_an_error(program, message, tmp_path, monkeypatch):
    score = command_score(f'{sys.executable} -c "{program}" {{model}}')
    with pytest.raises(ValueError, match=message):
        score(type(tmp_path)("m"))


def test_a_command_must_say_where_the_model_goes_and_exist(tmp_path):
    with pytest.raises(ValueError, match=r"does not say where \{model\} goes"):
        command_score("python score.py")
    with pytest.raises(ValueError, match="the score command /nowhere/at-all cannot run"):
        command_score("/nowhere/at-all {model}")(tmp_path)
