"""One rank of a step under data parallelism, started twice by test_gradient.py: two_ranks.py FOLDER SPLIT..."""

import faulthandler
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from mindvl.model.mindvl import MindVL
from mindvl.phases import ModelSpec, Multitask, Rates


class Keep(L.Callback):
    """Writes the gradients that the optimizer used."""

    def __init__(self, name: str):
        self.name = name

    def on_train_start(self, trainer, pl_module):
        def after_step(*_):
            named = pl_module.model.named_parameters()
            gradients = {name: parameter.grad.clone() for name, parameter in named}
            torch.save(gradients, f"{self.name}.{trainer.global_rank}")

        trainer.optimizers[0].register_step_post_hook(after_step)


def step(folder: Path, split: str) -> None:
    packs = torch.load(folder / f"{split}.packs", weights_only=False)
    phase = Multitask(ModelSpec(), rates=Rates(clip_norm=0.0))
    phase.model = MindVL.from_pretrained(folder / "model").train()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=1,
        accumulate_grad_batches=len(packs[0]),
        callbacks=[Keep(str(folder / split))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(phase, DataLoader(packs[trainer.global_rank], batch_size=None), val_dataloaders=[])


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    for split in sys.argv[2:]:
        step(Path(sys.argv[1]), split)
