"""What the strategy promises beside equal gradients: memory, resume, one read per pack, a whole model at the end."""

import pytest
import torch
from safetensors.torch import load_file

from mindvl.model.mindvl import MindVL


@pytest.fixture(scope="module")
def folder(tmp_path_factory, specs, step_packs, run_script, corpus):
    folder = tmp_path_factory.mktemp("strategy")
    (folder / "corpus").symlink_to(corpus / "train")
    for name, spec in specs.items():
        torch.save(spec, folder / f"{name}.spec")
    torch.save(step_packs, folder / "packs")
    run = run_script("strategy_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return folder


@pytest.fixture
def result(folder):
    return lambda scenario, rank=0: torch.load(folder / f"{scenario}.{rank}.result")


def test_a_model_is_cut_before_it_has_memory_and_a_rank_takes_its_slices_alone(result):
    found = result("memory")
    assert found["meta before"] and found["meta after"]
    assert found["elements"] < 0.45 * found["whole"]  # 4 ranks, of which pairs share tower, attention and norms


def test_a_model_that_exists_already_is_cut_as_it_is(result):
    assert result("given")["losses"] == pytest.approx([5.7275753, 5.1784120], rel=1e-6)


def test_bf16_true_keeps_slices_in_bf16_and_selection_biases_in_fp32(result):
    found = result("bf16-true")
    assert (found["dtypes"], found["biases"]) == ({"torch.bfloat16"}, {"torch.float32"})
    assert found["losses"] == pytest.approx(result("given")["losses"], rel=5e-3)


@pytest.mark.parametrize("scenario", ["four to two", "two to four"])
def test_a_run_saved_on_one_mesh_goes_on_on_another(scenario, result):
    ours, theirs = result(scenario), result("alone")
    assert ours["losses"] == pytest.approx(theirs["losses"][1:], rel=1e-5)
    assert ours["norms"] == pytest.approx(theirs["norms"][1:], rel=1e-5)
    for key, weight in ours["weights"].items():
        assert (weight - theirs["weights"][key]).abs().max() <= 1e-5, key


@pytest.mark.parametrize("scenario", ["four to two", "two to four"])
def test_a_sharded_model_is_saved_as_a_whole_one_is(scenario, folder, result):
    ours, theirs = folder / f"{scenario} model", folder / "alone model"
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    assert (ours / "config.json").read_text() == (theirs / "config.json").read_text()
    tensors = load_file(ours / "model.safetensors")
    assert tensors.keys() == load_file(theirs / "model.safetensors").keys()
    weights = result(scenario)["weights"]
    state = MindVL.from_pretrained(ours).state_dict()
    assert all(torch.equal(state[key], weight) for key, weight in weights.items())


def test_only_the_first_rank_of_a_pack_reads_it(result):
    first, second = result("sharing", 0), result("sharing", 1)
    assert (first["asked"], second["asked"]) == (3, 0)
    for ours, theirs in zip(second["batches"], first["batches"], strict=True):
        assert ours["text"] == theirs["text"]
        assert all(
            torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
            for key in ours
            if key != "text"
        )


def test_an_error_of_the_reader_reaches_those_it_reads_for(result):
    first, second = result("sharing", 0), result("sharing", 1)
    assert (first["received"], second["received"]) == (1, 1)
    assert first["error"] == "shard 7 is gone"
    assert "rank 0, which reads for this one, has failed" in second["error"] and "shard 7 is gone" in second["error"]


@pytest.mark.parametrize(
    ("scenario", "complaint"),
    [
        ("too many", "shard 3 x context 1 x tensor 1 is 3, but there are 2 ranks"),
        ("heads", "strategy.tensor is 2, which does not divide 3 attention heads"),
    ],
)
def test_what_does_not_fit_is_refused_on_every_rank(scenario, complaint, result):
    assert complaint in result(scenario, 0) and complaint in result(scenario, 1)


@pytest.mark.parametrize("scenario", ["shards", "shards shared"])
def test_a_run_over_shards_reads_every_pack_once_and_ends_as_one_process_would(scenario, result):
    """Four ranks, of which pairs read a pack together, cut by heads or by tokens; validation between steps."""
    theirs = result("shards alone")
    for rank in range(4):
        ours = result(scenario, rank)
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
        assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-5)
        assert ours["consumed"] == theirs["consumed"]
        assert ours["packing"] == theirs["packing"]
        assert ours["keys"] == theirs["keys"][rank // 2 :: 2]


def test_ranks_that_are_read_for_start_no_workers(result):
    assert [result("shards", rank)["started workers"] for rank in range(4)] == [True, False, True, False]
