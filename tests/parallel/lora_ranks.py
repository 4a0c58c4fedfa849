"""Ranks of test_lora.py: lora_ranks.py FOLDER. Each fit leaves FOLDER/<name>.<rank>.result and its saved folders."""

import sys
from pathlib import Path

import torch
from harness import Case, fit
from worlds import run_worlds

from mindvl.cli.quiet import quiet_lightning
from mindvl.phases.saving import SaveModel

FOLDER = Path(sys.argv[1])


def run(name: str, mesh) -> None:
    record, trainer = fit(Case(name, "lora", mesh), FOLDER, callbacks=[SaveModel(FOLDER / name)])
    result = {"losses": record.losses, "first": record.first, "weights": record.weights}
    torch.save(result, FOLDER / f"{name}.{trainer.global_rank}.result")


if __name__ == "__main__":
    quiet_lightning()
    run_worlds({1: lambda: run("alone", None)})
    run_worlds({2: lambda: run("sharded", {"shard": 2})})
