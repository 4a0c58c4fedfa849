"""What a plan predicts of a pack is what the model's FLOPs come to, counted on the pack itself."""

import numpy as np
import pytest

from mindvl.data.cost import CostModel
from mindvl.model.flops import cost_coefficients, forward_flops

DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": None,
}  # fmt: skip


@pytest.mark.parametrize("language", [{}, DEEPSEEK], ids=["qwen3", "deepseek_v3"])
def test_the_predicted_cost_of_a_pack_is_its_flops_up_to_the_edges(language, make_model, samples, pack):
    model = make_model(language=language)
    cost, batch = CostModel(**cost_coefficients(model.config)), pack(*samples)
    flops = forward_flops(model, batch)
    grids = np.asarray([grid.patches for sample in samples for grid in sample.grids])
    vision = sum(flops["vision"].values()) + flops["projector"]["weights"]
    assert cost.vision(grids).sum() == pytest.approx(vision, rel=0.1)  # windows at a picture's edge are smaller
    head = 2.0 * model.get_output_embeddings().weight.numel()
    supervised = flops["language"]["weights"] - head * batch.num_supervised + head * batch.num_tokens / 4
    language_flops = supervised + flops["language"]["attention"]
    assert cost.language(np.asarray(batch.doc_lengths)).sum() == pytest.approx(language_flops, rel=0.02)


def test_costs_are_known_without_any_memory_for_the_model(make_config):
    small, large = (make_config(language={"num_hidden_layers": 2, "hidden_size": size}) for size in (32, 32_768))
    assert cost_coefficients(large)["token"] / cost_coefficients(small)["token"] > 1000  # 40 GB of weights
