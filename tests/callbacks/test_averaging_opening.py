import json
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from mindvl_callbacks.averaging_opening import open_checkpoint
from mindvl_callbacks.averaging_reading import BlockReader
from safetensors.torch import save_file, save_model

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what dcp.save says


class Touch:
    """A pickle of it creates a file when it is loaded without care."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def state():
    torch.manual_seed(0)
    weight = torch.randn(6, 5)
    return {
        "head.weight": weight,
        "embed.weight": weight,
        "turned": torch.randn(4, 3).t(),
        "rows": torch.randn(9, 2)[2:5],
        "bf": torch.randn(1, 7).bfloat16(),
        "step": torch.tensor(3),
    }


def read(checkpoint, key, **part):
    facts = checkpoint.tensors[key]
    start, stop = part.get("start", 0), part.get("stop", facts.num_elements)
    block = BlockReader(checkpoint, key).read(start, stop)
    assert bytes(block.raw) == block.values.contiguous().view(torch.uint8).numpy().tobytes()
    return block.values.clone()


def check(checkpoint, state):
    for key in checkpoint.tensors:
        assert torch.equal(read(checkpoint, key), state[key].flatten()), key
        count = state[key].numel()
        low, high = count // 3, count - count // 4
        assert torch.equal(read(checkpoint, key, start=low, stop=high), state[key].flatten()[low:high]), key


def test_a_lightning_file_is_read_with_its_ties_and_facts(state, tmp_path):
    path = tmp_path / "last.ckpt"
    content = {
        "state_dict": {f"model.{key}": value for key, value in state.items()} | {"other": torch.ones(1)},
        "global_step": 400,
        "epoch": 1,
        "datamodule_hyper_parameters": {"sequence_length": 2048},
    }
    torch.save(content, path)
    checkpoint = open_checkpoint(path, prefix="model.")
    assert checkpoint.tensors.keys() == state.keys() - {"embed.weight"}
    assert checkpoint.tied == {"embed.weight": "head.weight"}
    assert checkpoint.facts == {"step": 400, "epoch": 1, "sequence_length": 2048}
    check(checkpoint, state)


def test_a_sharded_directory_is_read_without_its_optimizer(state, tmp_path):
    optimizer = {"state": {"exp_avg": torch.zeros(6, 5)}}
    dcp.save({"state_dict": state, "optimizer_0": optimizer}, checkpoint_id=tmp_path / "s", no_dist=True)
    torch.save({"global_step": 12, "epoch": 0}, tmp_path / "s" / "meta.pt")
    checkpoint = open_checkpoint(tmp_path / "s")
    assert checkpoint.tensors.keys() == state.keys() and checkpoint.facts == {"step": 12, "epoch": 0}
    check(checkpoint, state)


def test_a_flat_sharded_directory_with_an_optimizer_wants_a_prefix(state, tmp_path):
    flat = {f"model.{key}": value for key, value in state.items()} | {"optim.exp_avg": torch.zeros(3)}
    dcp.save(flat, checkpoint_id=tmp_path / "s", no_dist=True)
    with pytest.raises(ValueError, match=r"holds optim\.exp_avg beside weights; choose the weights with a prefix"):
        open_checkpoint(tmp_path / "s")
    check(open_checkpoint(tmp_path / "s", prefix="model."), state)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(6, 5)
        self.head = torch.nn.Linear(5, 6, bias=False)
        self.head.weight = self.embed.weight


def test_a_tie_that_safetensors_noted_is_known(tmp_path):
    model = Tied()
    save_model(model, str(tmp_path / "m.safetensors"))
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    assert len(checkpoint.tensors) == len(checkpoint.tied) == 1
    check(checkpoint, model.state_dict())


@pytest.fixture
def sharded_model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for key, file in files.items():
        save_file({key: torch.full((3,), float(ord(key)))}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def test_an_index_joins_its_files(sharded_model):
    checkpoint = open_checkpoint(sharded_model)
    assert list(checkpoint.tensors) == ["a", "b"] and read(checkpoint, "b").tolist() == [98.0] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": "model-00003-of-00003.safetensors"}, "lacks model-00003-of-00003.safetensors, which its index names"),
        ({"c": "model-00002-of-00002.safetensors"}, r"only in the index \['c'\]"),
        ({"b": "model-00001-of-00002.safetensors"}, r"disagree: only in the index \['b'\]"),
        ({"c": "../m.safetensors"}, r"points to \.\./m\.safetensors, outside its folder"),
    ],
    ids=["absent file", "absent key", "wrong file", "outside"],
)
def test_an_index_that_disagrees_with_its_files_is_refused(change, message, sharded_model):
    index = sharded_model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | change}))
    with pytest.raises(ValueError, match=message):
        open_checkpoint(sharded_model)


def test_shards_without_an_index_are_refused(sharded_model):
    (sharded_model / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="so a missing shard would not be noticed"):
        open_checkpoint(sharded_model)


def test_two_files_with_one_key_are_refused(sharded_model, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"a is both in .*x\.safetensors and in .*y\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_class_in_a_checkpoint_file_is_named_and_not_run(state, tmp_path):
    torch.save({"state_dict": state, "hyper_parameters": Touch(tmp_path / "mark")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt is not opened: it holds \S+ and opening it could run code"):
        open_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "mark").exists()


def test_a_class_in_a_sharded_directorys_metadata_is_named_and_not_run(state, tmp_path):
    folder = tmp_path / "s"
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    (folder / ".metadata").write_bytes(pickle.dumps(Touch(tmp_path / "mark")))
    with pytest.raises(ValueError, match=r"\.metadata holds pathlib\S*\.\S+, which is no part of the format|builtins"):
        open_checkpoint(folder)
    assert not (tmp_path / "mark").exists()


def test_a_sharded_directory_that_lacks_a_file_is_refused(state, tmp_path):
    dcp.save(state, checkpoint_id=tmp_path / "s", no_dist=True)
    (tmp_path / "s" / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match=r"lacks __0_0\.distcp, which its \.metadata names"):
        open_checkpoint(tmp_path / "s")


@pytest.mark.parametrize("kind", ["ckpt", "sharded"])
def test_a_file_that_is_cut_off_is_refused(kind, state, tmp_path):
    if kind == "ckpt":
        path = file = tmp_path / "last.ckpt"
        torch.save(state, path)
    else:
        path = tmp_path / "s"
        dcp.save(state, checkpoint_id=path, no_dist=True)
        file = path / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="is damaged or cut off"):
        for key in (checkpoint := open_checkpoint(path)).tensors:
            read(checkpoint, key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "is damaged or cut off"),
        (b"\x80\x02junk", "no checkpoint that torch.save has written"),
        (b"", "no checkpoint that torch.save"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(content, message, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path / "x.ckpt")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone is no checkpoint: there is no such file or folder"):
        open_checkpoint(tmp_path / "gone")
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"has no tensor with prefix 'model\.'; its first are \['a'\]"):
        open_checkpoint(tmp_path / "a.pt", prefix="model.")
    torch.save({"a": torch.ones(2), "extra": [1, 2]}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="extra is no tensor, so it has no mean"):
        open_checkpoint(tmp_path / "b.pt")
