import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindvl import __version__ as mindvl_version
from mindvl.model.mindvl import MindVL


@pytest.fixture
def other(trained, tmp_path):
    """A second model of the same form: the first with every weight doubled."""
    folder = shutil.copytree(trained.model, tmp_path / "other")
    state = {name: 2 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_average_is_a_model_whose_weights_are_the_mean(trained, other, mindvl, tmp_path):
    averaged = mindvl("average", trained.model, other, "-o", tmp_path / "deep" / "mean")
    assert averaged.status == 0, averaged.err
    assert averaged.out == f"the mean of 2 models is in {tmp_path}/deep/mean\n"
    mean, first = (load_file(folder / "model.safetensors") for folder in (tmp_path / "deep" / "mean", trained.model))
    assert mean.keys() == first.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(mean[name], 1.5 * tensor)
    loaded = MindVL.from_pretrained(tmp_path / "deep" / "mean").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in mean.items())
    assert {path.name for path in (tmp_path / "deep" / "mean").iterdir()} >= {
        path.name for path in trained.model.iterdir()
    }


def test_the_average_records_what_went_into_it(trained, other, mindvl, tmp_path):
    assert mindvl("average", trained.model, other, "-o", tmp_path / "mean", "--weights", 3, 1).status == 0
    record = json.loads((tmp_path / "mean" / "averaging.json").read_text())
    assert [(source["path"], source["weight"]) for source in record["sources"]] == [
        (str(trained.model), 0.75),
        (str(other), 0.25),
    ]
    assert record["mindvl"] == mindvl_version and record["method"] == "weighted mean"
    assert record["runs"] == {str(trained.model): {"sequence_length": 256, "max_steps": 40}}
    mean, first = (load_file(folder / "model.safetensors") for folder in (tmp_path / "mean", trained.model))
    for name, tensor in first.items():
        torch.testing.assert_close(mean[name], 1.25 * tensor)


def test_an_older_average_is_replaced_and_no_leftover_stays(trained, other, mindvl, tmp_path):
    call = ("average", trained.model, other, "-o", tmp_path / "mean", "--weights")
    assert mindvl(*call, 1, 1).status == 0
    refused = mindvl(*call, 1, 3)
    assert refused.status == 2 and refused.err.endswith(
        "choose another folder, or replace it on purpose (--overwrite)\n"
    )
    assert mindvl(*call, 1, 3, "--overwrite").status == 0
    sources = json.loads((tmp_path / "mean" / "averaging.json").read_text())["sources"]
    assert [source["weight"] for source in sources] == [0.25, 0.75]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mean", "other"]


def test_different_models_are_refused_with_the_tensor_and_both_shapes(trained, other, mindvl, tmp_path):
    state = load_file(other / "model.safetensors")
    name = next(iter(state))
    state[name] = torch.zeros(3, 5)
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    refused = mindvl("average", trained.model, other, "-o", tmp_path / "mean")
    assert refused.status == 2
    assert refused.err.startswith(f"mindvl average: {other}: {name} is (3, 5) torch.float32, in {trained.model} (")
    assert len(refused.err.splitlines()) == 1
    assert not (tmp_path / "mean").exists()


def test_a_folder_without_weights_is_refused(trained, mindvl, tmp_path):
    refused = mindvl("average", trained.model, tmp_path, "-o", tmp_path / "mean")
    assert refused.status == 2
    assert refused.err == f"mindvl average: {tmp_path} is no saved model: it has no safetensors file\n"


def test_one_model_is_no_average(trained, mindvl, tmp_path):
    refused = mindvl("average", trained.model, "-o", tmp_path / "mean")
    assert (refused.status, refused.err) == (2, "mindvl average: 1 checkpoint given, an average needs at least 2\n")


def test_a_folder_that_holds_something_else_is_not_overwritten(trained, other, mindvl, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    refused = mindvl("average", trained.model, other, "-o", tmp_path / "thesis")
    assert refused.status == 2 and "exists and is no saved model" in refused.err
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_lightning_checkpoints_of_a_run_give_a_model(trained, mindvl, tmp_path):
    state = load_file(trained.model / "model.safetensors")
    for number in (1, 2):
        content = {f"model.{name}": number * tensor for name, tensor in state.items()}
        torch.save({"state_dict": content, "global_step": number}, tmp_path / f"{number}.ckpt")
    files = (tmp_path / "1.ckpt", tmp_path / "2.ckpt")
    options = ("--prefix", "model.", "--files-from", trained.model)
    assert mindvl("average", *files, "-o", tmp_path / "mean", *options).status == 0
    loaded = MindVL.from_pretrained(tmp_path / "mean").state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(loaded[name], 1.5 * tensor)
    sources = json.loads((tmp_path / "mean" / "averaging.json").read_text())["sources"]
    assert [source["step"] for source in sources] == [1, 2]


@pytest.fixture
def checkpoints(trained, tmp_path):
    """Two files as Lightning writes them, in a run that has saved its model and in one that has not."""
    state = load_file(trained.model / "model.safetensors")

    def write(root):
        (root / "checkpoints").mkdir(parents=True)
        files = [root / "checkpoints" / f"step-{number}.ckpt" for number in (1, 2)]
        for number, file in enumerate(files, 1):
            content = {f"model.{name}": number * tensor for name, tensor in state.items()}
            torch.save({"state_dict": content, "global_step": number}, file)
        return files

    shutil.copytree(trained.model, tmp_path / "saved" / "model")
    return write(tmp_path / "saved"), write(tmp_path / "stopped")


def test_lightning_checkpoints_of_a_run_that_has_saved_its_model_give_one_like_it(
    checkpoints, trained, mindvl, tmp_path
):
    done = mindvl("average", *checkpoints[0], "-o", tmp_path / "mean")
    assert (done.status, done.err) == (0, "")
    loaded = MindVL.from_pretrained(tmp_path / "mean").state_dict()
    for name, tensor in load_file(trained.model / "model.safetensors").items():
        torch.testing.assert_close(loaded[name], 1.5 * tensor)
    assert (tmp_path / "mean" / "tokenizer_config.json").is_file()
    assert json.loads((tmp_path / "mean" / "averaging.json").read_text())["prefix"] == "model."


def test_lightning_checkpoints_of_which_nothing_says_what_they_are_say_which_options_are_wanted(
    checkpoints, trained, mindvl, tmp_path
):
    wanted = "--prefix model. --files-from FOLDER, a saved model's"
    reasons = "has only keys that begin with 'model.' and has no config and no tokenizer"
    done = mindvl("average", *checkpoints[1], "-o", tmp_path / "mean")
    line = f"mindvl average: {tmp_path}/mean {reasons}; to open it as a model, average with {wanted}\n"
    assert (done.status, done.err) == (0, line)
    done = mindvl("average", *checkpoints[1], "-o", tmp_path / "half", "--files-from", trained.model)
    assert done.err.endswith(
        "/half has only keys that begin with 'model.'; to open it as a model, average with --prefix model.\n"
    )
    (tmp_path / "stopped" / "model").mkdir()
    save_file({"weight": torch.zeros(2)}, tmp_path / "stopped" / "model" / "model.safetensors")
    (tmp_path / "stopped" / "model" / "config.json").write_text("{}")
    done = mindvl("average", *checkpoints[1], "-o", tmp_path / "other run")
    assert reasons in done.err and not (tmp_path / "other run" / "config.json").exists()


def test_a_greedy_soup_asks_a_command_for_scores(trained, other, mindvl, tmp_path):
    script = tmp_path / "score.py"
    script.write_text(
        "import sys\n"
        "from safetensors.torch import load_file\n"
        "print(sum(float(t.abs().sum()) for t in load_file(sys.argv[1] + '/model.safetensors').values()))\n"
    )
    score = ("--greedy", "--score", f"{sys.executable} {script} {{model}}")
    soup = mindvl("average", trained.model, other, "-o", tmp_path / "soup", *score)
    assert soup.status == 0 and soup.out.startswith("the greedy soup of 1 of 2 models, score "), soup
    record = json.loads((tmp_path / "soup" / "averaging.json").read_text())
    assert [(trial["path"], trial["kept"]) for trial in record["trials"]] == [
        (str(other), True),  # its weights are larger
        (str(trained.model), False),
    ]
    soup, best = (load_file(folder / "model.safetensors") for folder in (tmp_path / "soup", other))
    assert all(torch.equal(soup[name], best[name]) for name in best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--greedy",), "a greedy soup needs both --greedy and --score COMMAND"),
        (("--score", "x {model}"), "a greedy soup needs both --greedy and --score COMMAND"),
        (("--greedy", "--score", "x {model}", "--weights", 1, 2), "a greedy soup has equal weights"),
        (("--lower-is-better",), "--lower-is-better says how --greedy reads --score"),
        (("--weights", 1, 2, 3), "3 weights for 2 checkpoints"),
        (("--greedy", "--score", "x"), "the score command 'x' does not say where {model} goes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message, trained, other, mindvl, tmp_path):
    refused = mindvl("average", trained.model, other, "-o", tmp_path / "mean", *options)
    assert refused.status == 2 and refused.err.startswith(f"mindvl average: {message}")
    assert not (tmp_path / "mean").exists()


def test_a_model_given_twice_through_a_link_is_refused(trained, mindvl, tmp_path):
    (tmp_path / "link").symlink_to(trained.model)
    refused = mindvl("average", trained.model, tmp_path / "link", "-o", tmp_path / "mean")
    assert refused.status == 2 and "a checkpoint is given twice" in refused.err
