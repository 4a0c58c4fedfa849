"""One rank of a step of a mixture of experts, started twice by test_expert_losses.py: expert_ranks.py FOLDER."""

import faulthandler
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from mindvl.model.mindvl import MindVL
from mindvl.model.moe import routers_of
from mindvl.phases import ExpertBalance, ModelSpec, Multitask, Rates


class Keep(L.Callback):
    """Writes gradients, biases and what was logged."""

    def __init__(self, name: str):
        self.name = name

    def on_train_start(self, trainer, pl_module):
        def after_step(*_):
            self.gradients = {name: p.grad.clone() for name, p in pl_module.model.named_parameters()}

        trainer.optimizers[0].register_step_post_hook(after_step)

    def on_train_end(self, trainer, pl_module):
        routers = routers_of(pl_module.model).values()
        record = {
            "gradients": self.gradients,
            "biases": [router.e_score_correction_bias for router in routers],
            "logged": {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("experts/")},
        }
        torch.save(record, f"{self.name}.{trainer.global_rank}")


def step(folder: Path, settings: str) -> None:
    packs = torch.load(folder / "packs", weights_only=False)
    experts = torch.load(folder / f"{settings}.settings", weights_only=False)
    phase = Multitask(ModelSpec(), rates=Rates(clip_norm=0.0), experts=ExpertBalance(**experts))
    phase.model = MindVL.from_pretrained(folder / "model").train()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=1,
        accumulate_grad_batches=len(packs[0]),
        callbacks=[Keep(str(folder / settings))],
        logger=False,
        log_every_n_steps=1,
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
    for settings in sys.argv[2:]:
        step(Path(sys.argv[1]), settings)
