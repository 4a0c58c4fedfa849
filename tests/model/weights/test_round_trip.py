"""What comes in and is saved untrained is what came in, to the bit: every tensor, experts included."""

import pytest
import torch

from mindvl.model.mindvl import MindVL


@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, True), (torch.bfloat16, False)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["qwen3-tied", "qwen3-untied", "qwen3_moe", "deepseek_v3", "llama"])
def test_every_tensor_of_a_source_is_in_the_saved_model(
    family, dtype, shards, make_language, make_vision, tensors_of, tmp_path
):
    language, vision = make_language(family, dtype=dtype, shards=shards), make_vision(dtype=dtype)
    assert (len(list(language.glob("*.safetensors"))) > 1) == shards
    model = MindVL.from_pretrained(vision=str(vision), language=str(language))
    model.save_pretrained(tmp_path)
    saved = tensors_of(tmp_path)
    expected = {f"language_model.{key}": it for key, it in tensors_of(language).items()}
    expected |= {key.replace("visual.", "vision."): it for key, it in tensors_of(vision).items() if "visual." in key}
    assert saved.keys() == expected.keys()
    for key, tensor in expected.items():
        assert saved[key].dtype == (torch.float32 if key.endswith("correction_bias") else dtype), key
        assert torch.equal(saved[key], tensor.to(saved[key].dtype)), key
    tied = model.config.text_config.tie_word_embeddings
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
