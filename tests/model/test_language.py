"""The language model inside a pack against the stock transformers class, one document at a time."""

import pytest
import torch
from transformers import AutoModelForCausalLM

FAMILIES = {
    "qwen3": {},
    "qwen3 untied": {"tie_word_embeddings": False},
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "qwen3_moe eager": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "experts_implementation": "eager",
    },
    "qwen3_moe grouped_mm": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "experts_implementation": "grouped_mm",
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "head_dim": 8,
        "experts_implementation": "eager",
    },
}
TEXTS = [("a question?", "an answer"), ("b", "c"), ("one that is longer than the others", "and so is this")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_equals_the_stock_model_run_on_each_document(family, make_model, make_sample, pack):
    model = make_model(language=FAMILIES[family])
    stock = AutoModelForCausalLM.from_config(model.config.text_config, attn_implementation="eager").eval()
    stock.load_state_dict(model.language_model.state_dict(), strict=True)
    batch = pack(*(make_sample(*text) for text in TEXTS))
    packed = model.get_output_embeddings()(model.hidden_states(batch))
    for ids, ours in zip(batch.input_ids.split(batch.doc_lengths), packed.split(batch.doc_lengths), strict=True):
        theirs = stock(input_ids=ids[None], use_cache=False).logits[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packs_gradients_equal_the_stock_models_over_its_documents(family, make_model, make_sample, pack):
    model = make_model(language=FAMILIES[family])
    stock = AutoModelForCausalLM.from_config(model.config.text_config, attn_implementation="eager").eval()
    stock.load_state_dict(model.language_model.state_dict(), strict=True)
    batch = pack(*(make_sample(*text) for text in TEXTS))
    loss = model(packed=batch).loss
    loss.backward()
    labels = torch.full_like(batch.input_ids, -100).index_copy(0, batch.supervised_index, batch.targets)
    total = torch.zeros(())
    for ids, targets in zip(batch.input_ids.split(batch.doc_lengths), labels.split(batch.doc_lengths), strict=True):
        logits = stock(input_ids=ids[None], use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=0)
    theirs = dict(stock.named_parameters())
    for name, parameter in model.language_model.named_parameters():
        if theirs[name].grad is None:
            assert parameter.grad is None, name
            continue
        scale = theirs[name].grad.abs().max()
        assert (parameter.grad - theirs[name].grad).abs().max() <= 1e-5 * scale, name


def test_a_sliding_window_is_refused_by_name(make_model, make_sample, pack):
    model = make_model(
        language={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": None}
    )
    with pytest.raises(ValueError, match="set use_sliding_window=false in the language config"):
        model(packed=pack(make_sample("a question?", "an answer")))
