"""Three Llama-shaped models of random bf16 weights, as folders that every averaging tool can read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "bench" / "average"
MEGABYTES = int(os.environ.get("BENCH_AVERAGE_MB", "2000"))
"""Of each model; BENCH_AVERAGE_MB=100 tries the benchmark out."""


def make_models(count: int = 3) -> list[Path]:
    """Folders with config.json and model.safetensors. RuntimeError when the disk cannot hold them and two results."""
    from safetensors.torch import save_file

    FOLDER.mkdir(parents=True, exist_ok=True)
    needed, free = (count + 3) * MEGABYTES * 1_000_000, shutil.disk_usage(FOLDER).free
    if free < needed:
        raise RuntimeError(
            f"the benchmark of averages needs {needed / 1e9:.1f} GB in {FOLDER}, {free / 1e9:.1f} are free"
        )
    config = _config()
    folders = [FOLDER / f"model_{number}" for number in range(count)]
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(_weights(config, number), folder / "model.safetensors", metadata={"format": "pt"})
    return folders


def _config() -> dict:
    """Layers of 51 million parameters and an embedding of 66 million; a tenth of that where the models are small."""
    large = MEGABYTES >= 500
    hidden, intermediate, vocabulary = (2048, 5632, 32000) if large else (512, 1408, 8000)
    layer = 4 * hidden**2 + 3 * hidden * intermediate
    layers = max(1, round((MEGABYTES * 5e5 - 2 * vocabulary * hidden) / layer))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def _weights(config: dict, seed: int) -> dict:
    import torch

    generator = torch.Generator().manual_seed(seed)
    hidden, intermediate, vocabulary = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))

    def make(*shape: int):
        return torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05, generator=generator)

    state = {"model.embed_tokens.weight": make(vocabulary, hidden), "lm_head.weight": make(vocabulary, hidden)}
    state["model.norm.weight"] = make(hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{layer}{name}.weight"] = make(hidden)
        for name in "qkvo":
            state[f"{layer}self_attn.{name}_proj.weight"] = make(hidden, hidden)
        for name in ("gate", "up"):
            state[f"{layer}mlp.{name}_proj.weight"] = make(intermediate, hidden)
        state[f"{layer}mlp.down_proj.weight"] = make(hidden, intermediate)
    return state
