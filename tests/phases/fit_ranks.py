"""Runs over shards whose steps take two packs on any number of ranks; started twice by test_elastic_resume.py.

Each run writes FOLDER/RANKS-STEPS.RANK.json with sample keys and losses; one that is stopped early leaves
FOLDER/stopped-RANKS.ckpt, which the run with the other number of ranks goes on from.
"""

import faulthandler
import json
import sys
from pathlib import Path

import lightning as L
import torch

from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.model.mindvl import MindVL
from mindvl.phases import ModelSpec, Multitask


class Keep(L.Callback):
    def __init__(self):
        self.keys: list[list[str]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(list(batch.keys))
        if trainer.global_step > len(self.losses) + self.first:
            self.losses.append(trainer.callback_metrics["train/loss"].item())

    def on_train_start(self, trainer, pl_module):
        self.first = trainer.global_step


def main(folder: Path, *, ranks: int, steps: int, resume: bool) -> None:
    quiet_lightning()
    phase = Multitask(ModelSpec(min_pixels=784, max_pixels=64 * 784))
    phase.config = MindVL.config_class.from_pretrained(folder / "model")
    phase.model = MindVL.from_pretrained(folder / "model").train()
    sources = {name: Source(str(folder / "corpus" / f"{name}-*.tar")) for name in ("ocr", "counting", "text")}
    data = PackedShards(sources, sequence_length=256, workers=ranks % 2, packs_per_step=2)
    keep = Keep()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=6,
        max_epochs=-1,
        accumulate_grad_batches=2 // ranks,
        callbacks=[keep],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == steps < 6 and not trainer.fit_loop._should_accumulate():
                trainer.save_checkpoint(folder / f"stopped-{ranks}.ckpt")
                trainer.should_stop = True

    trainer.callbacks.append(Stop())
    other = 3 - ranks
    trainer.fit(phase, data, ckpt_path=str(folder / f"stopped-{other}.ckpt") if resume else None)
    record = {"keys": keep.keys, "losses": keep.losses, "consumed": data.state_dict()["consumed"]}
    name = f"{ranks}-{'resumed' if resume else steps}.{trainer.global_rank}.json"
    (folder / name).write_text(json.dumps(record))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), ranks=2, steps=3, resume=False)
    main(Path(sys.argv[1]), ranks=2, steps=6, resume=True)
