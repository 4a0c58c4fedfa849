"""Runs that are saved by some ranks, or killed while they save, go on with others as if nothing had been."""

import json
import shutil

import pytest
import torch


@pytest.fixture(scope="module")
def ran(tmp_path_factory, specs, step_packs, run_script, corpus):
    folder = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(corpus / "train", folder / "corpus")
    torch.save(specs["deepseek_v3"], folder / "deepseek_v3.spec")
    torch.save(step_packs, folder / "packs")
    run = run_script("checkpoint_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return folder, run.stderr


@pytest.fixture
def result(ran):
    return lambda scenario, rank=0: torch.load(ran[0] / f"{scenario}.{rank}.result")


@pytest.fixture
def codes(ran):
    return json.loads((ran[0] / "codes.json").read_text())


@pytest.mark.parametrize("scenario", ["same mesh", "from the background", "after kill"])
def test_a_run_resumed_on_the_same_mesh_is_the_same_to_the_bit(scenario, result):
    whole, resumed = result("whole"), result(scenario)
    assert resumed["losses"] == whole["losses"][1:]
    for key, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][key], weight), key


@pytest.mark.parametrize(
    ("before", "after"), [("whole", "dp2 to one"), ("whole", "dp2 to tp2"), ("ep2 whole", "ep2 to dp2")]
)
def test_a_run_resumed_on_another_mesh_has_the_same_losses_and_weights(before, after, result):
    whole, resumed = result(before), result(after)
    assert resumed["losses"] == pytest.approx(whole["losses"][1:], rel=1e-5)
    for key, weight in whole["weights"].items():
        assert (resumed["weights"][key] - weight).abs().max() <= 1e-5, key


def test_the_remaining_packs_do_not_depend_on_the_ranks_that_read_them(result):
    first = [result("shards", rank)["keys"] for rank in (0, 1)]
    assert [len(keys) for keys in first] == [1, 1]
    one, tensor = result("shards alone"), result("shards on tp2")
    assert len(one["keys"]) == 4 and one["keys"] == tensor["keys"]
    assert not {key for keys in one["keys"] for key in keys} & {key for keys in first[0] + first[1] for key in keys}
    assert one["losses"] == pytest.approx(tensor["losses"], rel=1e-5) and len(one["losses"]) == 2
    assert one["consumed"] == tensor["consumed"]


def test_saves_in_the_background_do_not_change_training_and_are_finished_when_it_ends(result):
    assert result("background")["losses"] == result("whole")["losses"]
    files = result("background files")
    assert files["names"] == ["last.ckpt", "step-1.ckpt", "step-2.ckpt"]
    assert files["links"] == {"last.ckpt": "step-2.ckpt"}


def test_a_rank_killed_while_it_saves_leaves_the_checkpoint_before(result, codes):
    assert codes["killed"][1] == -9 and codes["killed"][0] > 0
    files = result("after kill files")
    assert files["left"] == [".step-2.ckpt.mindvl-incomplete", "last.ckpt", "step-1.ckpt"]
    assert files["newest"] == "last.ckpt"
    assert files["names"] == ["last.ckpt", "step-2.ckpt"]


def test_what_was_never_written_to_its_end_is_removed_with_a_word(ran):
    assert "killed/step-2.ckpt was never written to its end and is removed" in ran[1]


def test_an_error_of_one_rank_in_the_background_ends_all_and_names_it(ran, codes):
    assert all(code > 0 for code in codes["full"])
    assert codes["full files"] == ["last.ckpt", "step-1.ckpt"]
    assert (
        "full/step-2.ckpt could not be written, older checkpoints are as they were: rank 1: OSError: [Errno 28] No "
        "space left on device"
    ) in ran[1]
