import json
import os
import shutil
import zlib

import pytest
import torch
import torch.distributed.checkpoint as dcp
from mindvl_callbacks import average_checkpoints, average_state_dicts
from mindvl_callbacks import averaging_folder as folder_module
from safetensors.torch import load_file, load_model, save_file

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what dcp.save says


def state_of(seed, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (50, 8), "layer.weight": (8, 8), "layer.bias": (8,), "gate": (), "none": (0, 3)}
    state = {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}
    return state | {"position": torch.arange(4)}


@pytest.fixture
def make(tmp_path):
    """A checkpoint of a kind at a name, and its path."""

    def write(name, state, kind="folder"):
        path = tmp_path / name
        if kind == "folder":
            path.mkdir()
            save_file(state, path / "model.safetensors", metadata={"format": "pt"})
            (path / "config.json").write_text('{"hidden_size": 8, "dtype": "float32"}')
            (path / "tokenizer.json").write_text("{}")
        elif kind == "file":
            torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, path)
        else:
            dcp.save({f"model.{key}": value for key, value in state.items()}, checkpoint_id=path, no_dist=True)
        return path

    return write


def load(path):
    return {key: value for file in sorted(path.glob("*.safetensors")) for key, value in load_file(file).items()}


def plain(states, weights=None):
    """Slow and plain: whole state dicts in memory."""
    return average_state_dicts(list(map(str, range(len(states)))), lambda name: states[int(name)], weights=weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_the_streamed_mean_equals_the_mean_in_memory(dtype, weights, make, tmp_path, monkeypatch):
    monkeypatch.setattr("mindvl_callbacks.averaging_mean.BLOCK_ELEMENTS", 24)
    states = [state_of(seed, dtype=dtype) for seed in range(3)]
    paths = [make(f"m{number}", state) for number, state in enumerate(states)]
    average_checkpoints(paths, tmp_path / "mean", weights=weights)
    mean, expected = load(tmp_path / "mean"), plain(states, weights)
    assert mean.keys() == expected.keys()
    for key, value in expected.items():
        assert mean[key].dtype == value.dtype
        torch.testing.assert_close(mean[key], value)


def test_all_kinds_of_checkpoints_go_into_one_mean(make, tmp_path):
    states = [state_of(seed) for seed in range(2)]
    paths = [make("a.ckpt", states[0], "file"), make("b", states[1], "sharded")]
    tokenizer = make("tokenizer", states[0])
    average_checkpoints(paths, tmp_path / "mean", prefix="model.", files_from=tokenizer)
    mean, expected = load(tmp_path / "mean"), plain(states)
    assert mean.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(mean[key], expected[key])
    assert (tmp_path / "mean" / "tokenizer.json").is_file()


def test_the_record_says_what_went_in(make, tmp_path):
    paths = [make("a", state_of(0)), make("b", state_of(1))]
    record = average_checkpoints(paths, tmp_path / "mean", weights=[1, 3], notes={"by": "me"})
    assert record == json.loads((tmp_path / "mean" / "averaging.json").read_text())
    assert record["method"] == "weighted mean" and record["by"] == "me"
    assert [(source["path"], source["weight"]) for source in record["sources"]] == [
        (str(paths[0]), 0.25),
        (str(paths[1]), 0.75),
    ]
    assert len({source["word_sums_sha256"] for source in record["sources"]}) == 2
    for key, value in load(tmp_path / "mean").items():
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert record["crc32"][key] == f"{zlib.crc32(raw):08x}"


def test_a_large_result_is_split_with_an_index_and_is_a_source_again(make, tmp_path):
    paths = [make("a", state_of(0)), make("b", state_of(1))]
    average_checkpoints(paths, tmp_path / "mean", max_file_bytes=300)
    files = sorted(path.name for path in (tmp_path / "mean").glob("*.safetensors"))
    assert len(files) > 1 and files[-1] == f"model-{len(files):05d}-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "mean" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in load(tmp_path / "mean").values())
    average_checkpoints([tmp_path / "mean", paths[0]], tmp_path / "again")
    expected = plain([load(tmp_path / "mean"), state_of(0)])
    for key, value in load(tmp_path / "again").items():
        torch.testing.assert_close(value, expected[key])


def test_tied_tensors_stay_tied(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(6, 5), torch.nn.Linear(5, 6, bias=False)
            self.head.weight = self.embed.weight

    models = [Tied(), Tied()]
    for number, model in enumerate(models):
        torch.save(model.state_dict(), tmp_path / f"{number}.pt")
    average_checkpoints([tmp_path / "0.pt", tmp_path / "1.pt"], tmp_path / "mean")
    assert list(load(tmp_path / "mean")) == ["embed.weight"]
    loaded = Tied()
    load_model(loaded, str(tmp_path / "mean" / "model.safetensors"))  # strict: it knows that head.weight is tied
    torch.testing.assert_close(loaded.head.weight, (models[0].head.weight + models[1].head.weight) / 2)
    loose = models[1].state_dict() | {"head.weight": torch.ones(6, 5)}
    torch.save(loose, tmp_path / "loose.pt")
    with pytest.raises(ValueError, match=r"loose\.pt: head\.weight has weights of its own, in .*0\.pt it is tied to"):
        average_checkpoints([tmp_path / "0.pt", tmp_path / "loose.pt"], tmp_path / "mean2")


def test_different_dtypes_are_refused_unless_one_is_chosen(make, tmp_path):
    paths = [make("a", state_of(0)), make("b", state_of(1, dtype=torch.bfloat16))]
    with pytest.raises(ValueError, match=r"b: embed\.weight is \(50, 8\) torch\.bfloat16, in .*a .* torch\.float32"):
        average_checkpoints(paths, tmp_path / "mean")
    average_checkpoints(paths, tmp_path / "mean", dtype=torch.bfloat16)
    mean = load(tmp_path / "mean")
    expected = (state_of(0)["layer.bias"] + state_of(1, dtype=torch.bfloat16)["layer.bias"].float()) / 2
    assert torch.equal(mean["layer.bias"], expected.bfloat16()) and mean["position"].dtype == torch.int64
    assert json.loads((tmp_path / "mean" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_mean_that_the_dtype_cannot_hold_is_refused(make, tmp_path):
    paths = [make(name, state_of(seed) | {"gate": torch.tensor(3e5)}) for seed, name in enumerate("ab")]
    with pytest.raises(ValueError, match=r"the mean of gate reaches 3e\+05, which torch\.float16 cannot hold"):
        average_checkpoints(paths, tmp_path / "mean", dtype=torch.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer.bias": torch.tensor([1.0] * 7 + [float("nan")])}, r"b: layer\.bias holds a value that is not finite"),
        ({"embed.weight": torch.full((50, 8), float("-inf"))}, r"b: embed\.weight holds a value that is not finite"),
        ({"position": torch.arange(4) + 1}, r"b: integer buffer position differs from the one in .*a"),
        ({"layer.bias": torch.ones(9)}, r"b: layer\.bias is \(9,\) torch\.float32, in .*a \(8,\) torch\.float32$"),
        ({"extra": torch.ones(1)}, r"b and .*a hold different keys: only here \['extra'\], only there \[\]"),
        ({"gate": torch.tensor(1.0).to(torch.float8_e5m2)}, r"b: gate is torch\.float8_e5m2; quantised weights"),
    ],
    ids=["nan", "infinity", "integers", "shape", "keys", "quantised"],
)
def test_a_refusal_names_the_checkpoint_and_the_tensor_and_leaves_nothing(change, message, make, tmp_path):
    paths = [make("a", state_of(0)), make("b", state_of(1) | change)]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        average_checkpoints(paths, tmp_path / "mean")
    assert sorted(tmp_path.iterdir()) == before


def test_large_finite_values_are_no_infinities(make, tmp_path):
    """Their sum overflows, which must not be taken for an infinity among them."""
    paths = [make(name, state_of(seed) | {"layer.bias": torch.full((8,), 1e38)}) for seed, name in enumerate("ab")]
    average_checkpoints(paths, tmp_path / "mean")
    assert load(tmp_path / "mean")["layer.bias"].tolist() == pytest.approx([1e38] * 8)


@pytest.mark.parametrize("how", ["path", "symlink", "hard link", "copy"])
def test_a_checkpoint_given_twice_is_refused_however_it_is_disguised(how, make, tmp_path):
    first, other = make("a", state_of(0)), tmp_path / "other"
    if how == "path":
        other = tmp_path / "." / "a"
    elif how == "symlink":
        other.symlink_to(first)
    else:
        other.mkdir()
        (os.link if how == "hard link" else shutil.copy)(first / "model.safetensors", other / "model.safetensors")
    with pytest.raises(ValueError, match=r"is given twice: .*a and .* (are one file|hold the same values)"):
        average_checkpoints([first, make("b", state_of(1)), other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_are_no_average(count, make, tmp_path):
    with pytest.raises(ValueError, match=f"{count} checkpoint given, an average needs at least 2"):
        average_checkpoints([make("a", state_of(0))][:count], tmp_path / "mean")


def test_a_zeroed_tail_of_an_average_is_noticed_when_it_is_averaged(make, tmp_path):
    paths = [make("a", state_of(0)), make("b", state_of(1))]
    average_checkpoints(paths, tmp_path / "mean")
    file = tmp_path / "mean" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64] + bytes(64))
    load_file(file)  # the package does not see it
    with pytest.raises(ValueError, match=r"mean: .* reads as .*, its record says"):
        average_checkpoints([tmp_path / "mean", paths[0]], tmp_path / "again")


def flip_the_last_byte(held: bytearray) -> None:
    held[-1] ^= 0x55


def exchange_two_blocks(held: bytearray) -> None:
    held[-64:-32], held[-32:] = held[-32:], held[-64:-32]


@pytest.mark.parametrize("lose", [flip_the_last_byte, exchange_two_blocks])
def test_what_the_disk_lost_is_noticed_before_the_result_gets_its_name(lose, make, tmp_path, monkeypatch):
    original = folder_module.write_means

    def write_and_lose(checkpoints, shares, facts, files, folder, *rest):
        sums = original(checkpoints, shares, facts, files, folder, *rest)
        held = bytearray((folder / "model.safetensors").read_bytes())
        lose(held)
        (folder / "model.safetensors").write_bytes(held)
        return sums

    monkeypatch.setattr(folder_module, "write_means", write_and_lose)
    monkeypatch.setattr("mindvl_callbacks.averaging_mean.BLOCK_ELEMENTS", 8)
    paths = [make("a", state_of(0)), make("b", state_of(1))]
    with pytest.raises(ValueError, match=r"does not read as it was written, from element \d+ on"):
        average_checkpoints(paths, tmp_path / "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_wrong_sum_is_noticed_by_the_mean_in_fp64(make, tmp_path, monkeypatch):
    shares = folder_module.shares_of
    monkeypatch.setattr("mindvl_callbacks.averaging_folder.write_means", _with_other_shares(shares))
    with pytest.raises(ValueError, match="differs from the mean at"):
        average_checkpoints([make("a", state_of(0)), make("b", state_of(1))], tmp_path / "mean")


def _with_other_shares(shares_of):
    original = folder_module.write_means
    return lambda checkpoints, shares, *rest: original(checkpoints, shares_of([1, 2], 2), *rest)


def test_other_checkpoints_and_optimizer_states_are_not_carried_over(make, tmp_path):
    first = make("a", state_of(0))
    for name in ("optimizer.pt", "pytorch_model.bin", "checkpoint-500/state.json", "chat_templates/tools.jinja"):
        (first / name).parent.mkdir(exist_ok=True)
        (first / name).write_text("x")
    average_checkpoints([first, make("b", state_of(1))], tmp_path / "mean")
    names = {str(path.relative_to(tmp_path / "mean")) for path in (tmp_path / "mean").rglob("*") if path.is_file()}
    assert names == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "averaging.json",
        "chat_templates/tools.jinja",
    }
