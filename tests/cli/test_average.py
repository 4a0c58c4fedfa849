import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    assert record == {"models": [str(trained.model), str(other)], "weights": [3.0, 1.0]}
    mean, first = (load_file(folder / "model.safetensors") for folder in (tmp_path / "mean", trained.model))
    for name, tensor in first.items():
        torch.testing.assert_close(mean[name], 1.25 * tensor)


def test_an_older_average_is_replaced_and_no_leftover_stays(trained, other, mindvl, tmp_path):
    for weights in ((1, 1), (1, 3)):
        assert mindvl("average", trained.model, other, "-o", tmp_path / "mean", "--weights", *weights).status == 0
    assert json.loads((tmp_path / "mean" / "averaging.json").read_text())["weights"] == [1.0, 3.0]
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
