"""Small models of every backbone, and their state as a checkpoint that is read element by element."""

from __future__ import annotations

import pytest
import torch

BACKBONES = {
    "qwen3": {"model_type": "qwen3"},
    "llama": {"model_type": "llama"},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}


class StateWeights:
    """A state dict as the exporter reads checkpoints."""

    def __init__(self, state: dict[str, torch.Tensor], name: str = "state"):
        self.name, self.tensors = name, state
        self.reads: list[tuple[str, int, int]] = []

    def read(self, key: str, start: int, stop: int) -> torch.Tensor:
        self.reads.append((key, start, stop))
        return self.tensors[key].reshape(-1)[start:stop]


@pytest.fixture(scope="session")
def backbones():
    return BACKBONES


@pytest.fixture(scope="session")
def state_weights():
    return StateWeights
