"""Ranks of test_checkpoints.py: checkpoint_ranks.py FOLDER. Each scenario writes FOLDER/<scenario>.<rank>.result."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import lightning as L
import torch
from harness import Case, fit
from lightning.pytorch.callbacks import ModelCheckpoint
from worlds import run_worlds

from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.parallel import MindVLStrategy
from mindvl.parallel.checkpoint.folder import newest
from mindvl.parallel.checkpoint.saves import Checkpoints
from mindvl.parallel.checkpoint.writing import CheckpointWriter
from mindvl.phases import Multitask

FOLDER = Path(sys.argv[1])
MODEL = "deepseek_v3"


def keep(scenario: str, result) -> None:
    torch.save(result, FOLDER / f"{scenario}.{os.environ.get('RANK', 0)}.result")


class SaveAt1(L.Callback):
    """A checkpoint between the two steps."""

    def __init__(self, name: str, *, stop: bool = False):
        self.name, self.stop = name, stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 1 and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(FOLDER / self.name)
            trainer.should_stop = self.stop


def run(scenario: str, mesh: dict, *callbacks, resume: str | Path | None = None, **strategy) -> None:
    case = Case(scenario, MODEL, {**mesh, **strategy}, adam=True, trainer={"enable_checkpointing": True})
    path = None if resume is None else str(FOLDER / resume)
    record, _ = fit(case, FOLDER, callbacks=list(callbacks), ckpt_path=path)
    keep(scenario, {"losses": record.losses, "weights": record.weights})


def every_step(name: str, **settings) -> ModelCheckpoint:
    return ModelCheckpoint(FOLDER / name, filename="step-{step}", auto_insert_metric_name=False, **settings)


KEEP_LAST = {"every_n_train_steps": 1, "save_last": True, "save_top_k": 1}


def slow_writing(seconds: float) -> None:
    write = CheckpointWriter.write_data

    def slowly(writer, plan, planner):
        time.sleep(seconds)
        return write(writer, plan, planner)

    CheckpointWriter.write_data = slowly


def trouble_at_second_save(trouble) -> None:
    """Rank 1 meets it after it has written its slices, the first time not."""
    write, saves = CheckpointWriter.write_data, []

    def write_data(writer, plan, planner):
        result = write(writer, plan, planner)
        saves.append(writer)
        if len(saves) == 2 and os.environ["RANK"] == "1":
            trouble()
        return result

    CheckpointWriter.write_data = write_data


def no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


class Reading(L.Callback):
    def __init__(self):
        self.keys, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(list(batch.keys))
        if not trainer.fit_loop._should_accumulate():
            self.losses.append(trainer.callback_metrics["train/loss"].item())


def shards(scenario: str, *, data_ranks: int, stop: bool = False, resume: str | None = None, **mesh) -> None:
    """Three steps of two packs over a corpus, or the first of them, or the others."""
    L.seed_everything(7, verbose=False)
    phase = Multitask(torch.load(FOLDER / f"{MODEL}.spec", weights_only=False))
    sources = {name: Source(str(FOLDER / "corpus" / f"{name}-*.tar")) for name in ("ocr", "text")}
    reading = Reading()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=MindVLStrategy(**mesh),
        max_steps=3,
        max_epochs=-1,
        accumulate_grad_batches=2 // data_ranks,
        callbacks=[reading, *([SaveAt1("shards.ckpt", stop=True)] if stop else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        default_root_dir=FOLDER,
    )
    data = PackedShards(sources, sequence_length=192, packs_per_step=2, workers=0)
    trainer.fit(phase, data, ckpt_path=resume and str(FOLDER / resume))
    keep(scenario, {"keys": reading.keys, "losses": reading.losses, "consumed": data.state_dict()["consumed"]})


def two() -> None:
    run("whole", {}, SaveAt1("dp2.ckpt"))
    run("same mesh", {}, resume="dp2.ckpt")
    run("ep2 whole", {"expert": 2}, SaveAt1("ep2.ckpt"))
    run("ep2 to dp2", {}, resume="ep2.ckpt")
    run("dp2 to tp2", {"tensor": 2}, resume="dp2.ckpt")
    shards("shards", data_ranks=2, stop=True)
    shards("shards on tp2", data_ranks=1, resume="shards.ckpt", tensor=2)


def background() -> None:
    slow_writing(1.0)
    saver = every_step("kept", every_n_train_steps=1, save_last=True, save_top_k=-1)
    run("background", {}, saver, checkpoints=Checkpoints(asynchronous=True))
    found = sorted((FOLDER / "kept").iterdir())
    links = {path.name: str(path.readlink()) for path in found if path.is_symlink()}
    keep("background files", {"names": [path.name for path in found], "links": links})
    run("from the background", {}, resume="kept/step-1.ckpt")


def alone() -> None:
    shards("shards alone", data_ranks=1, resume="shards.ckpt")
    os.environ["WORLD_SIZE"] = "1"  # the harness asks
    run("dp2 to one", {}, resume="dp2.ckpt")


def killed() -> None:
    trouble_at_second_save(lambda: os.kill(os.getpid(), signal.SIGKILL))
    run("killed", {}, every_step("killed", **KEEP_LAST), timeout_s=20)


def after_kill() -> None:
    left = sorted(path.name for path in (FOLDER / "killed").iterdir())
    found = newest(FOLDER / "killed")
    run("after kill", {}, every_step("killed", **KEEP_LAST), resume=found)
    names = sorted(path.name for path in (FOLDER / "killed").iterdir())
    keep("after kill files", {"left": left, "newest": found.name, "names": names})


def full_disk() -> None:
    trouble_at_second_save(no_space)
    run("full", {}, every_step("full", **KEEP_LAST), checkpoints=Checkpoints(asynchronous=True), timeout_s=20)


if __name__ == "__main__":
    quiet_lightning()
    run_worlds({2: two})
    run_worlds({1: alone})
    run_worlds({2: background})
    codes = {"killed": run_worlds({2: killed}, may_fail=True)[2]}
    run_worlds({2: after_kill})
    codes["full"] = run_worlds({2: full_disk}, may_fail=True)[2]
    codes["full files"] = sorted(path.name for path in (FOLDER / "full").iterdir())
    (FOLDER / "codes.json").write_text(json.dumps(codes))
