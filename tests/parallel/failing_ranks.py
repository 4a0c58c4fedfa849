"""Ranks of test_failure.py: failing_ranks.py FOLDER fails|hangs TIMEOUT_S; prints exit codes and seconds as JSON."""

import json
import os
import sys
import time
from pathlib import Path

import lightning as L
from harness import Case, fit
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from worlds import run_worlds

FOLDER, HOW, TIMEOUT_S = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])


class Trouble(L.Callback):
    """Rank 1 leaves the common path before the forward pass of its third pack."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 2:
            if HOW == "hangs":
                time.sleep(600)
            raise FloatingPointError("loss is nan in pack 2")


class SaveSomehow(L.Callback):
    """A save of the user's own making."""

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(FOLDER / "own")


def run() -> None:
    saving = [
        ModelCheckpoint(FOLDER / "kept", save_on_exception=True),
        OnExceptionCheckpoint(FOLDER / "exception"),
        SaveSomehow(),
    ]
    case = Case("failing", "qwen3", {"timeout_s": TIMEOUT_S}, trainer={"enable_checkpointing": True})
    fit(case, FOLDER, callbacks=[Trouble(), *saving])


if __name__ == "__main__":
    start = time.monotonic()
    codes = run_worlds({2: run}, may_fail=True)[2]
    saved = [str(path) for path in FOLDER.rglob("*") if path.suffix in (".ckpt", ".distcp") or path.name == "own"]
    print("result", json.dumps({"codes": codes, "seconds": time.monotonic() - start, "saved": saved}), flush=True)
    os._exit(0)
