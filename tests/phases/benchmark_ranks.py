"""Ranks of test_benchmark_ranks.py: benchmark_ranks.py FOLDER.

FOLDER holds a model, spec, corpus and DocVQA.tsv; each world validates into FOLDER/<name>, and each rank leaves
FOLDER/<name>.<rank>.result with what it has logged. A world that is stopped ends without a word at its third answer.
"""

import os
import sys
from pathlib import Path

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
from worlds import run_worlds

import mindvl.phases.benchmarks_answers as answers
from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.parallel import MindVLStrategy
from mindvl.phases import Benchmarks, Multitask

FOLDER = Path(sys.argv[1])


def make(out: str, strategy, *, benchmarks: bool = True, **settings) -> tuple[L.Trainer, Multitask, PackedShards]:
    phase = Multitask(torch.load(FOLDER / "spec", weights_only=False))
    sources = {name: Source(str(FOLDER / "corpus" / f"{name}-*.tar")) for name in ("ocr", "counting")}
    stop = {"stop": ["J", "R", "U", "k"], "max_new_tokens": 12}
    asked = Benchmarks({"docvqa": str(FOLDER / "DocVQA.tsv")}, out=str(FOLDER / out), decoding=stop, batch_tokens=160)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=strategy,
        callbacks=[asked] if benchmarks else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=FOLDER,
        **settings,
    )
    return trainer, phase, PackedShards(sources, validation=sources, sequence_length=192, workers=0)


def validate(name: str, strategy="auto", *, out: str | None = None) -> None:
    trainer, phase, data = make(out or name, strategy)
    trainer.validate(phase, data, verbose=False)
    (benchmarks,) = (callback for callback in trainer.callbacks if isinstance(callback, Benchmarks))
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    result = {"logged": logged, "summary": benchmarks.summaries["docvqa"]}
    torch.save(result, FOLDER / f"{name}.{trainer.global_rank}.result")


def stopped() -> None:
    """Each rank dies while it writes its third answer."""
    write, count = answers.AnswerWriter.write, 0

    def dying(writer, line):
        nonlocal count
        count += "id" in line
        if count == 3:
            writer._file.write(b'{"id": "half a li')
            writer._file.flush()
            os._exit(0)
        write(writer, line)

    answers.AnswerWriter.write = dying
    validate("stopped", "ddp")


def fit() -> None:
    """Two steps with a validation after each, with benchmarks and without."""
    losses = []
    for asked in (True, False):
        settings = {"max_steps": 2, "max_epochs": -1, "val_check_interval": 1, "check_val_every_n_epoch": None}
        trainer, phase, data = make("fit", MindVLStrategy(), benchmarks=asked, **settings)
        trainer.fit(phase, data)
        logged = trainer.callback_metrics
        losses.append([logged[f"{stage}/loss"].item() for stage in ("train", "validation")])
    torch.save(losses, FOLDER / f"fit.{trainer.global_rank}.result")


if __name__ == "__main__":
    quiet_lightning()
    run_worlds({1: lambda: validate("alone")})
    run_worlds({2: lambda: validate("ddp", "ddp")})
    run_worlds({2: stopped})
    run_worlds({1: lambda: validate("gone on", out="stopped")})
    run_worlds({2: lambda: validate("shards", MindVLStrategy())})
    run_worlds({2: lambda: validate("tensor", MindVLStrategy(tensor=2))})
    run_worlds({2: fit})
