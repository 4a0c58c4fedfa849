"""A checkpoint as safetensors: the same values, one tensor at a time."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mindvl.parallel.checkpoint import consolidate as module
from mindvl.parallel.checkpoint.consolidate import consolidate


@pytest.fixture
def saved(saves, trained, tmp_path, rest):
    model, optimizer = trained(1)
    model.model.register_buffer("lower", torch.randn(3, 2).bfloat16())
    model.model.register_buffer("empty", torch.zeros(0, 2))
    model.model.register_buffer("flags", torch.tensor([True, False, True]))
    saves().save(tmp_path / "step-7.ckpt", model, [optimizer], rest(7), background=False)
    return tmp_path / "step-7.ckpt", model


@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_tensor_is_in_the_file_as_it_was_saved(prefix, saved, tmp_path):
    checkpoint, model = saved
    consolidate(checkpoint, tmp_path / "out", prefix=prefix)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = {name.removeprefix(prefix): value for name, value in model.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())


def test_several_files_have_an_index(saved, tmp_path):
    checkpoint, model = saved
    consolidate(checkpoint, tmp_path / "out", file_bytes=100)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model.state_dict().keys() and len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in model.state_dict().values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "out" / file)[name], model.state_dict()[name])


def test_no_more_than_one_tensor_is_held(saved, tmp_path, monkeypatch):
    checkpoint, _ = saved
    read, alive = module._read, []

    def watched(*arguments):
        assert all(reference() is None for reference in alive)
        tensor = read(*arguments)
        import weakref

        alive[:] = [weakref.ref(tensor)]
        return tensor

    monkeypatch.setattr(module, "_read", watched)
    consolidate(checkpoint, tmp_path / "out")
    assert len(alive) == 1


def test_a_damaged_checkpoint_gives_no_folder(saved, tmp_path):
    checkpoint, _ = saved
    content = bytearray((checkpoint / "__0_0.distcp").read_bytes())
    content[100] ^= 1
    (checkpoint / "__0_0.distcp").write_bytes(content)
    with pytest.raises(ValueError, match=r"__0_0.distcp is damaged"):
        consolidate(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prefix_without_tensors_and_a_folder_that_exists_are_refused(saved, tmp_path):
    checkpoint, _ = saved
    with pytest.raises(ValueError, match=r"no tensor whose name begins with 'vision.'"):
        consolidate(checkpoint, tmp_path / "out", prefix="vision.")
    with pytest.raises(FileExistsError, match=r"is there already"):
        consolidate(checkpoint, checkpoint)
