"""A folder is opened whole, or refused with the file that is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from mindvl.model.weights.checkpoint import INDEX, open_checkpoint


@pytest.fixture
def folder(make_language, tmp_path):
    """A copy of a sharded checkpoint, to be damaged."""
    return shutil.copytree(make_language("qwen3-untied", shards=True), tmp_path / "source")


def only_config(folder, **more):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **more}))
    return folder


def test_a_sharded_folder_is_one_set_of_tensors(folder, tensors_of):
    checkpoint, expected = open_checkpoint(folder), tensors_of(folder)
    assert checkpoint.tensors.keys() == expected.keys() and checkpoint.config["model_type"] == "qwen3"
    key = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(checkpoint.rows(key, 3, 9), expected[key][3:9])


def test_an_index_that_names_absent_files_is_refused_with_their_number(folder):
    files = sorted(folder.glob("*.safetensors"))
    files[0].unlink()
    with pytest.raises(
        ValueError, match=rf"names 1 of {len(files)} files that are not in its folder \(first: \['model-0"
    ):
        open_checkpoint(folder)


def test_an_index_that_names_tensors_the_files_do_not_hold_is_refused(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.extra"] = index["weight_map"].pop("model.norm.weight")
    (folder / INDEX).write_text(json.dumps(index))
    message = r"1 tensors are in the index only \(first: \['model.extra'\]\), 1 in the file only .*model.norm.weight"
    with pytest.raises(ValueError, match=message):
        open_checkpoint(folder)


def test_shards_without_an_index_are_refused(folder):
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match=r"holds model-00001-of-\d+.safetensors but no model.safetensors.index.json"):
        open_checkpoint(folder)


def test_an_index_that_leaves_the_folder_is_refused(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../config.json"}}))
    with pytest.raises(ValueError, match="names 1 of 1 files that are not in its folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_what_is_no_index_is_refused(content, folder):
    (folder / INDEX).write_text(content)
    with pytest.raises(ValueError, match="is no index of safetensors files"):
        open_checkpoint(folder)


def test_several_files_that_nothing_orders_are_refused(tmp_path):
    for name in ("one", "two"):
        save_file({name: torch.ones(2)}, only_config(tmp_path) / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=r"holds 2 safetensors files \(one.safetensors, ...\) and no model.safetensors.in"
    ):
        open_checkpoint(tmp_path)


def test_a_pickle_is_refused_unless_the_flag_is_given(tmp_path):
    state = {"a.weight": torch.arange(6.0).reshape(3, 2)}
    torch.save(state, only_config(tmp_path) / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pickled weights only \(pytorch_model.bin\).* set allow_pickle_which_can_run_c"
    ):
        open_checkpoint(tmp_path)
    allowed = open_checkpoint(tmp_path, allow_pickle_which_can_run_code=True)
    assert torch.equal(allowed.rows("a.weight", 1, 3), state["a.weight"][1:])


class Attack:
    def __reduce__(self):
        return print, ("code has run",)


@pytest.mark.parametrize(
    "content", [Attack(), {"a": Attack()}, {"a": 3}, [torch.ones(2)]], ids=["code", "code inside", "a number", "a list"]
)
def test_a_pickle_of_more_than_tensors_is_refused_even_with_the_flag(content, tmp_path, capsys):
    torch.save(content, only_config(tmp_path) / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model.bin (cannot be read without running code|holds more than named)"
    ):
        open_checkpoint(tmp_path, allow_pickle_which_can_run_code=True)
    assert "code has run" not in capsys.readouterr().out


def test_safetensors_are_taken_where_a_pickle_lies_beside_them(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert open_checkpoint(folder).tensors


@pytest.mark.parametrize(("file", "name"), [("m.Q4_1.gguf", "GGUF"), ("tf_model.h5", "TensorFlow"), ("m.onnx", "ONNX")])
def test_other_formats_are_refused_by_name(file, name, tmp_path):
    (only_config(tmp_path) / file).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"holds {name} weights \({file}\); only safetensors are read"):
        open_checkpoint(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="quantized by method fp8; their scales are not applied"):
        open_checkpoint(only_config(tmp_path, quantization_config={"quant_method": "fp8"}))


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="has no safetensors file"):
        open_checkpoint(only_config(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON"):
        open_checkpoint(tmp_path)
