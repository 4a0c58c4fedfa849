"""A saved MindVL opens whole or not at all; one of two parts gets the tokens that its language model lacks."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from mindvl.data.tokenizer import byte_tokenizer, load_tokenizer
from mindvl.model.mindvl import MindVL

UP = "language_model.model.layers.0.mlp.up_proj.weight"
VISION = "vision.blocks.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    """A saved model; do not write into it."""
    path = tmp_path_factory.mktemp("saved")
    make_model(language={"tie_word_embeddings": False}).save_pretrained(path)
    return path


@pytest.fixture
def changed(folder, tmp_path):
    """A copy whose tensors `change` has changed in place."""

    def make(change) -> Path:
        path = shutil.copytree(folder, tmp_path / "copy")
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return make


@pytest.fixture
def stranger(make_language, tmp_path):
    """A language model whose tokenizer knows no pictures."""
    path = shutil.copytree(make_language("deepseek_v3"), tmp_path / "stranger")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (path / name).read_text(encoding="utf-8")
        for token in ("vision_start", "vision_end", "image_pad", "video_pad"):
            text = text.replace(f"<|{token}|>", f"<|other_{token}|>")
        (path / name).write_text(text, encoding="utf-8")
    return path


def states_are_equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_tensors_that_are_missing_are_refused_by_name(changed):
    path = changed(lambda tensors: (tensors.pop(UP), tensors.pop(VISION)))
    with pytest.raises(
        ValueError, match=rf"does not hold this model: 2 keys missing \(first: \['{VISION}', '{UP}'\]\)"
    ):
        MindVL.from_pretrained(path)


def test_a_tensor_too_many_is_refused_by_name(changed):
    path = changed(lambda tensors: tensors.update({"vision.blocks.9.mlp.up_proj.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"1 unexpected \(first: \['vision.blocks.9.mlp.up_proj.weight'\]\)"):
        MindVL.from_pretrained(path)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(changed):
    path = changed(lambda tensors: tensors.update({VISION: torch.ones(3, 3)}))
    with pytest.raises(ValueError, match=rf"{VISION} has shape \(3, 3\), the configured model \(40, 32\)"):
        MindVL.from_pretrained(path)


@pytest.mark.parametrize(("zeros", "complaint"), [(0, "is truncated: its header says"), (3000, "ends in zeros")])
def test_a_damaged_file_is_refused(zeros, complaint, changed):
    file = changed(lambda tensors: None) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3000] + bytes(zeros))
    with pytest.raises(ValueError, match=f"model.safetensors {complaint}"):
        MindVL.from_pretrained(file.parent)


def test_pickled_weights_are_read_on_purpose_alone(changed, folder):
    path = changed(lambda tensors: None)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="set allow_pickle_which_can_run_code"):
        MindVL.from_pretrained(path)
    opened = MindVL.from_pretrained(path, allow_pickle_which_can_run_code=True)
    assert states_are_equal(opened, MindVL.from_pretrained(folder))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("image_token_id", 10**6, "image_token_id is 1000000, but the language model embeds"),
        ("model_type", "qwen3", "holds a model of type qwen3, not mindvl"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_with_its_file(field, value, complaint, changed):
    path = changed(lambda tensors: None)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.* {complaint}"):
        MindVL.from_pretrained(path)


def test_a_tokenizer_with_other_placeholders_is_refused(folder):
    assert MindVL.from_pretrained(folder, tokenizer=byte_tokenizer())
    with pytest.raises(ValueError, match=r"the model's image_token_id is 262, but tokenizer bytes has .* as 264"):
        MindVL.from_pretrained(folder, tokenizer=byte_tokenizer(["word"]))


def test_the_dtype_is_the_saved_one_or_the_one_that_is_said_in_every_part(folder, tmp_path):
    coarse = MindVL.from_pretrained(folder, dtype="bfloat16")
    coarse.save_pretrained(tmp_path)
    for said, expected in (
        ({}, torch.bfloat16),
        ({"dtype": "auto"}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({"torch_dtype": torch.float32}, torch.float32),
    ):
        model = MindVL.from_pretrained(tmp_path, **said)
        assert {parameter.dtype for parameter in model.parameters()} == {expected} and model.config.dtype == expected
        assert all(torch.equal(ours, its) for ours, its in zip(model.parameters(), coarse.parameters(), strict=True))
        assert all(buffer.dtype == torch.float32 for name, buffer in model.named_buffers() if "inv_freq" in name)


def test_a_saved_model_keeps_how_it_generates_and_where_it_lies(changed):
    path = changed(lambda tensors: None)
    GenerationConfig(eos_token_id=[5, 6], pad_token_id=7).save_pretrained(path)
    model = MindVL.from_pretrained(path)
    assert model.generation_config.eos_token_id == [5, 6] and model.generation_config.pad_token_id == 7
    assert model.name_or_path == str(path)


def test_an_auto_class_opens_as_strictly_and_hands_its_settings_on(folder, changed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16", max_pixels=784, trust_remote_code=True)
    assert model.dtype == torch.bfloat16 and model.config.max_pixels == 784 and not model.training
    with pytest.raises(ValueError, match="1 keys missing"):
        AutoModelForCausalLM.from_pretrained(changed(lambda tensors: tensors.pop(UP)))
    with pytest.raises(ValueError, match="knows no attn_implementation, foo for a saved MindVL; beside dtype it knows"):
        MindVL.from_pretrained(folder, attn_implementation="sdpa", foo=3)


def test_opening_draws_nothing_from_the_generator_of_the_program(folder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    MindVL.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_language_model_without_vision_tokens_gets_them_as_from_load_tokenizer(stranger, make_vision):
    tokenizer = load_tokenizer(stranger)
    assert len(tokenizer) == len(byte_tokenizer()) + 4
    torch.manual_seed(0)
    ours = MindVL.from_pretrained(vision=make_vision(), language=stranger)
    torch.manual_seed(0)
    theirs = MindVL.from_pretrained(vision=str(make_vision()), language=str(stranger), tokenizer=tokenizer)
    assert ours.config.to_dict() == theirs.config.to_dict() and states_are_equal(ours, theirs)
    ids = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    config = ours.config
    assert ids == [
        *(config.image_token_id, config.video_token_id),
        *(config.vision_start_token_id, config.vision_end_token_id),
    ]
    rows = load_file(stranger / "model.safetensors")["model.embed_tokens.weight"]
    embedding = ours.get_input_embeddings().weight
    assert len(embedding) >= max(ids) + 1 and torch.equal(embedding[: len(rows)], rows)


def test_a_language_model_without_a_tokenizer_says_so(stranger, make_vision):
    for file in stranger.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"stranger holds no tokenizer \(no tokenizer.json, .*; give tokenizer=\.\.\."):
        MindVL.from_pretrained(vision=make_vision(), language=stranger)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"image_token_id": 7}, "knows no image_token_id for a model of two parts; beside dtype it knows min_pixels"),
        ({"foo": 3, "trust_remote_code": True}, "knows no foo, trust_remote_code for a model of two parts"),
        ({"dtype": "bf8"}, "dtype is bf8; known are"),
    ],
)
def test_settings_that_nobody_reads_are_refused_before_a_file_is_opened(said, complaint):
    with pytest.raises(ValueError, match=complaint):
        MindVL.from_pretrained(vision="no/tower", language="no/language", **said)


def test_two_parts_take_a_dtype_by_its_name_and_paths(make_language, make_vision, tokenizer):
    origins = {"vision": {"pretrained": make_vision()}, "language": Path(make_language("llama"))}
    for name in ("dtype", "torch_dtype"):
        model = MindVL.from_pretrained(**origins, **{name: "bfloat16"})
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
