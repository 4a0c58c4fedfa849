"""What a verification finds: each thing that can go wrong between a checkpoint and the folder made of it, by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindvl.cli.export_job import export, probe
from mindvl.cli.export_source import open_source
from mindvl.model.export.classes import stock_tensors
from mindvl.model.export.tensors import runs_of_model
from mindvl.model.export.verifying import OwnLogits, filled_model, mindvl_logits, pixel_values, verify_whole
from mindvl.model.mindvl import MindVL


@pytest.fixture(scope="module")
def model(make_model, backbones):
    return make_model(language={**backbones["qwen3_moe"], "tie_word_embeddings": True})


@pytest.fixture(scope="module")
def saved(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checked(saved, tmp_path):
    """An export that nobody has verified yet, and what verifies it."""
    export(saved, tmp_path / "out", verify=False)
    source = open_source(saved)
    own = MindVL(source.config)
    runs = runs_of_model(source.weights, own.state_dict(), own.all_tied_weights_keys)
    asked = probe(source.config, source.tokenizer)
    pixels = pixel_values(asked.patches, source.config)
    ours = mindvl_logits(filled_model(source.weights, runs, source.config), asked, pixels)
    written = stock_tensors(runs, source.config, "hf")
    return tmp_path / "out", lambda own=ours: verify_whole(tmp_path / "out", "hf", asked, own, written, source.weights)


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_model_filled_from_a_checkpoint_is_the_model(model, saved):
    source = open_source(saved)
    runs = runs_of_model(source.weights, model.state_dict(), model.all_tied_weights_keys)
    filled = filled_model(source.weights, runs, source.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(filled.state_dict()[name], tensor), name
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(filled.named_buffers())[name], buffer), name
    assert filled.get_output_embeddings().weight is filled.get_input_embeddings().weight


def test_what_was_exported_passes(checked):
    found = checked[1]()
    assert 0 < found.difference <= 1e-5 and found.remarks == ()
    assert 0 < found.as_trained < 1e-5 * found.largest_logit and found.as_trained != found.difference


def test_one_changed_element_of_one_expert_is_found(checked):
    folder, verify = checked
    state = load_file(folder / "model.safetensors")
    name = "model.language_model.layers.1.mlp.experts.7.down_proj.weight"
    state[name][3, 5] += 1e-6
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name}: elements .* are not those of the checkpoint"):
        verify()


def test_a_missing_tensor_is_found_by_the_class(checked):
    folder, verify = checked
    state = load_file(folder / "model.safetensors")
    del state["model.visual.merger.ln_q.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"reports 1 missing_keys: \['model.visual.merger.ln_q.weight'\]"):
        verify()


def test_another_number_of_active_experts_is_found_by_the_logits(checked):
    folder, verify = checked
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "num_experts_per_tok": 1})
    with pytest.raises(ValueError, match=r"logits of the exported model differ from MindVL's by up to \d"):
        verify()


def test_another_pixel_budget_is_found_with_both_grids(checked):
    folder, verify = checked
    change(folder / "preprocessor_config.json", size={"shortest_edge": 28 * 28, "longest_edge": 6 * 28 * 28})
    with pytest.raises(ValueError, match="tokens of the probe"):
        verify()


def test_another_chat_template_is_found_with_both_beginnings(checked):
    folder, verify = checked
    path = folder / "chat_template.jinja"
    path.write_text("<|system|>" + path.read_text())
    with pytest.raises(ValueError, match=r"makes \d+ tokens of the probe, .* its chat template differs"):
        verify()


def test_another_mean_is_found_by_the_logits(checked):
    folder, verify = checked
    change(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="logits of the exported model differ"):
        verify()


def test_bytes_that_mean_other_logits_than_their_pixel_values_are_found(checked):
    _, verify = checked
    (ours,) = verify.__defaults__
    other = ours.as_trained.clone()
    other[0, -1, 0] += 0.01
    with pytest.raises(ValueError, match=r"differ from MindVL's, which reads the picture's bytes, by up to 0\.01"):
        verify(OwnLogits(ours.same_inputs, other))


def test_a_tower_that_no_class_holds_leaves_by_split_alone(make_model, tokenizer, tmp_path):
    vision = {"model_type": "qwen2_vl", "depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}
    model = make_model(vision=vision)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the vision tower is qwen2_vl.*--to split"):
        export(tmp_path / "model", tmp_path / "out")
    exported = export(tmp_path / "model", tmp_path / "out", to="split")
    assert exported.verified.difference <= 1e-5 and exported.verified.as_trained is None
    assert exported.verified.remarks == ("the tower was compared tensor by tensor, the logits are of a text",)
    state = load_file(tmp_path / "out" / "vision" / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.vision.state_dict().items())
    assert json.loads((tmp_path / "out" / "vision" / "config.json").read_text())["model_type"] == "qwen2_vl_vision"
