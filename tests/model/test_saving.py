"""A model that is saved and loaded is the same model, to the bit."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindvl.model.mindvl import MindVL


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_saved_model_comes_back_bit_equal(tied, make_model, samples, pack, tmp_path):
    model, batch = make_model(language={"tie_word_embeddings": tied}), pack(*samples)
    model.save_pretrained(tmp_path)
    back = MindVL.from_pretrained(tmp_path).eval()
    assert not back.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, dict(back.named_buffers())[name]), name
    embedding, head = back.get_input_embeddings().weight, back.get_output_embeddings().weight
    assert (embedding is head) == tied
    with torch.no_grad():
        assert torch.equal(model(packed=batch).loss, back(packed=batch).loss)


def test_tied_embeddings_are_written_once(make_model, tmp_path):
    from safetensors import safe_open

    make_model().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert "language_model.model.embed_tokens.weight" in keys and "language_model.lm_head.weight" not in keys


def test_the_auto_class_finds_a_saved_model(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), MindVL)


def test_every_family_comes_back_with_its_own_class_and_weights(make_model, tmp_path):
    moe = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
    model = make_model(language=moe)
    model.save_pretrained(tmp_path)
    back = MindVL.from_pretrained(tmp_path)
    assert type(back.language_model) is type(model.language_model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
