"""The mean of three models of 2 GB against copying the same bytes, and against mergekit's linear merge.

Copying: `cp` of one model to a new file, flushed to disk as ours is, and of the other two to /dev/null: what the mean
must read and write at least. Both with the models in the page cache, in turns. Ours checks, sums, checksums, reads its
result again. mergekit runs in an environment of its own; it and `mindvl average` are timed as whole commands.

`python -m tests.benchmarks.average OUT MODEL...` is one measured average.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.average_models import FOLDER, make_models
from tests.benchmarks.average_rivals.mergekit_environment import MERGEKIT, mergekit_command
from tests.benchmarks.memory import peak_bytes, resident_bytes
from tests.benchmarks.rows import Row

ROWS = ("average_vs_cp_ratio", "average_peak_bytes_over_largest_tensor", "average_vs_mergekit_ratio")
ROUNDS = int(os.environ.get("BENCH_AVERAGE_ROUNDS", "3"))


def measure() -> list[Row]:
    mergekit = mergekit_command()
    try:
        models = make_models()
        ours, copies, commands, merges = [], [], [], []
        for _ in range(ROUNDS):
            copies.append(_copy_s(models))
            ours.append(_average(models))
            commands.append(_command_s([sys.executable, "-m", "mindvl.cli.main", "average", *map(str, models), "-o"]))
            merges.append(_command_s(_merge(mergekit, models)))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    seconds, copy_s = statistics.median(run["seconds"] for run in ours), statistics.median(copies)
    command_s, merge_s = statistics.median(commands), statistics.median(merges)
    largest, read_bytes = ours[0]["largest_bytes"], ours[0]["read_bytes"]
    grown = max(run["peak_bytes"] - run["before_bytes"] for run in ours)
    peak = (
        f"{max(run['peak_bytes'] for run in ours) / 1e6:.0f} MB in all, {ours[0]['before_bytes'] / 1e6:.0f} MB before"
    )
    size = f"reads {read_bytes / 1e9:.1f} GB"
    return [
        Row(ROWS[0], seconds / copy_s, "ratio", f"cp {copy_s:.2f} s, ours {seconds:.2f} s, {size}"),
        Row(ROWS[1], grown / largest, "ratio", f"{peak}, largest tensor {largest / 1e6:.0f} MB"),
        Row(ROWS[2], merge_s / command_s, "ratio", f"{MERGEKIT} {merge_s:.1f} s, command {command_s:.1f} s"),
    ]


def _copy_s(models: list[Path]) -> float:
    target = FOLDER / "copy.safetensors"
    os.sync()  # what others have written is not waited for below
    start = time.perf_counter()
    subprocess.run(["cp", str(models[0] / "model.safetensors"), str(target)], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    for model in models[1:]:
        subprocess.run(["cp", str(model / "model.safetensors"), "/dev/null"], check=True)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def _average(models: list[Path]) -> dict:
    """One average in a process of its own: its seconds without the start, and memory before and at its peak."""
    out = FOLDER / "mean"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.average", str(out), *map(str, models)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(out)
    return json.loads(done.stdout)


def _command_s(command: list[str]) -> float:
    out = FOLDER / "result"
    start = time.perf_counter()
    done = subprocess.run(
        [*command, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    seconds = time.perf_counter() - start
    if done.returncode or not (out / "config.json").is_file():
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}")
    shutil.rmtree(out)
    return seconds


def _merge(mergekit: str, models: list[Path]) -> list[str]:
    settings = FOLDER / "merge.yaml"
    lines = ["merge_method: linear", "dtype: bfloat16", "models:"]
    for model in models:
        lines += [f"  - model: {model}", "    parameters: {weight: 1.0}"]
    settings.write_text("\n".join(lines) + "\n")
    return [mergekit, "--no-copy-tokenizer", "--no-write-model-card", str(settings)]


def _measured(out: str, models: list[str]) -> dict:
    from mindvl_callbacks.averaging_folder import average_checkpoints
    from mindvl_callbacks.averaging_opening import open_checkpoint

    sizes = [facts.num_bytes for facts in open_checkpoint(models[0]).tensors.values()]
    os.sync()
    before = resident_bytes()
    start = time.perf_counter()
    average_checkpoints(models, out)
    return {
        "seconds": time.perf_counter() - start,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
        "largest_bytes": max(sizes),
        "read_bytes": len(models) * sum(sizes),
    }


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], sys.argv[2:])))
