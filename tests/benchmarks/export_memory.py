"""Memory that an export takes: of a model of 1 GB, in files of 250 MB, above what the process has after its imports.

Written alone, it is a few blocks of a tensor, whatever the size of model and shards. Verified, it is one model in fp32:
MindVL's first, then its twin in transformers.

`python -m tests.benchmarks.export_memory MODEL OUT yes|no` is one measured export, verified or not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.memory import peak_bytes, resident_bytes
from tests.benchmarks.rows import Row

ROWS = ("export_peak_over_largest_shard", "export_verified_peak_over_model")
FOLDER = Path(__file__).parents[2] / "build" / "bench" / "export"
SHARD_BYTES = 250_000_000
VISION = {"depth": 8, "hidden_size": 640, "num_heads": 10, "intermediate_size": 1720, "fullatt_block_indexes": [3, 7]}
LANGUAGE = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def measure() -> list[Row]:
    try:
        _save(FOLDER / "model")
        sizes = [path.stat().st_size for path in (FOLDER / "model").glob("*.safetensors")]
        written, verified = (_export(verify) for verify in ("no", "yes"))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    grown = [run["peak_bytes"] - run["before_bytes"] for run in (written, verified)]
    total = f"model of {sum(sizes) / 1e9:.2f} GB, largest file {max(sizes) / 1e6:.0f} MB"
    return [
        Row(ROWS[0], grown[0] / max(sizes), "ratio", f"{grown[0] / 1e6:.0f} MB above the imports, {total}"),
        Row(ROWS[1], grown[1] / sum(sizes), "ratio", f"{grown[1] / 1e6:.0f} MB above the imports, {total}"),
    ]


def _save(folder: Path) -> None:
    from mindvl.data.tokenizer import byte_tokenizer
    from mindvl.model.config import MindVLConfig
    from mindvl.model.mindvl import MindVL

    tokenizer = byte_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = MindVLConfig(VISION, {**LANGUAGE, **ids}, image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    MindVL(config).save_pretrained(folder, max_shard_size=SHARD_BYTES)
    tokenizer.save_pretrained(folder)


def _export(verify: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.export_memory", str(FOLDER / "model"), str(FOLDER / verify), verify],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measured(model: Path, out: Path, verify: str) -> dict:
    import transformers.models.exaone4_5.modeling_exaone4_5
    import transformers.models.qwen2_vl.image_processing_pil_qwen2_vl  # noqa: F401  what a verification imports

    from mindvl.cli.export_job import export

    before = resident_bytes()
    export(model, out, max_shard_bytes=SHARD_BYTES, verify=verify == "yes")
    return {"before_bytes": before, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
