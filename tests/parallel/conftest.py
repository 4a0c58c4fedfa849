"""Tiny models whose sizes divide by four, and a step of packs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DENSE = {"num_key_value_heads": 4, "head_dim": 8, "vocab_size": 272}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}


@pytest.fixture(scope="session")
def specs(make_spec):
    """ModelSpecs of the three families, large enough in their weights that every part matters."""
    families = {
        "qwen3": DENSE,
        "qwen3-odd": {**DENSE, "num_attention_heads": 3, "num_key_value_heads": 1},
        "qwen3_moe": {**DENSE, **EXPERTS, "model_type": "qwen3_moe", "num_experts": 8},
        "deepseek_v3": {
            **EXPERTS,
            **LATENT,
            "model_type": "deepseek_v3",
            "head_dim": 4,
            "num_key_value_heads": 4,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "vocab_size": 272,
            "tie_word_embeddings": False,
        },
    }
    wide = {"initializer_range": 0.1}
    return {
        name: make_spec(tokenizer="bytes", language={**fields, **wide}, vision=wide, max_pixels=16 * 28 * 28)
        for name, fields in families.items()
    }


@pytest.fixture(scope="session")
def step_packs(make_sample, pack):
    """Four packs; the second and the last hold no picture."""
    return [
        pack(make_sample("read it", "abc", ((56, 84),), seed=1), make_sample("why?", "because")),
        pack(make_sample("no picture here", "so be it, it is so")),
        pack(make_sample("which is larger?", "the second", ((28, 56), (56, 84)), seed=2)),
        pack(make_sample("?", "x"), make_sample("what follows b?", "c")),
    ]


@pytest.fixture(scope="session")
def run_script():
    """Runs a script of this folder in a process of its own, one thread per rank."""

    def run(name: str, *arguments: str, timeout_s: int = 300) -> subprocess.CompletedProcess:
        command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)

    return run
