"""Memory that each of two ranks takes to import a language model: its half of the parameters, and a block of a tensor.

The source is a bf16 model of 1 GB in two files of half a GB; one with stacked experts and one without. What a process
has after its imports is not counted.

`python -m tests.benchmarks.import_memory LANGUAGE`, started twice with RANK and its like, is one measured rank.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.memory import peak_bytes, resident_bytes
from tests.benchmarks.rows import Row

ROWS = ("import_peak_over_largest_shard", "import_experts_peak_over_largest_shard")
FOLDER = Path(__file__).parents[2] / "build" / "bench" / "import"
TOWER = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 80, "fullatt_block_indexes": [1]}
SIZES = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False}
DENSE = {"model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 8, **SIZES}
EXPERTS = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    **SIZES,
}
VOCABULARY = 32000


def measure() -> list[Row]:
    rows = []
    for name, language in zip(ROWS, (DENSE, EXPERTS), strict=True):
        try:
            _save({**language, "vocab_size": VOCABULARY})
            sizes = [path.stat().st_size for path in FOLDER.glob("*.safetensors")]
            ranks = _two_ranks()
        finally:
            shutil.rmtree(FOLDER, ignore_errors=True)
        source = f"source {sum(sizes) / 1e9:.2f} GB in {len(sizes)} files, the largest {max(sizes) / 1e6:.0f} MB"
        against = f"{max(ranks) / 1e6:.0f} MB above the imports; {source}"
        rows.append(Row(name, max(ranks) / max(sizes), "ratio", against))
    return rows


def _save(language: dict) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from mindvl.data.tokenizer import byte_tokenizer

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**language), dtype=torch.bfloat16)
    half = sum(parameter.nbytes for parameter in model.parameters()) / 2
    model.save_pretrained(FOLDER, max_shard_size=int(half * 1.02))
    byte_tokenizer().save_pretrained(FOLDER)


def _two_ranks() -> list[int]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.import_memory", str(FOLDER)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **address, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    written = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError("a rank of the import did not come to its end; its reason is above")
    return [json.loads(line) for line in written]


def _rank(language: str) -> int:
    """Bytes that the import adds at its peak, in one of two ranks that cut every parameter in half."""
    import torch
    from torch.distributed.fsdp import fully_shard

    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.model.building import build
    from mindvl.model.weights.assembly import Part, assembled_config

    def place(model) -> None:
        for layer in model.language_model.model.layers:
            fully_shard(layer)
        fully_shard(model)

    torch.distributed.init_process_group("gloo")
    tokenizer, vision = load_tokenizer(language), Part.of("vision", TOWER)
    small = Part.of("language", {**DENSE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1})
    build(assembled_config(vision, small, tokenizer), place=place)  # what is imported on first use
    text = Part.of("language", language)
    config = assembled_config(vision, text, tokenizer)
    before = resident_bytes()
    model = build(config, text.weights(), place=place, dtype=torch.bfloat16)
    added = peak_bytes() - before
    held = sum(parameter.to_local().nbytes for parameter in model.parameters())
    assert added > held, f"{added} bytes cannot hold {held} of parameters"
    torch.distributed.destroy_process_group()
    return added


if __name__ == "__main__":
    print(_rank(sys.argv[1]))
