"""One of two ranks, each with a double of its own: npu_ranks.py FOLDER; the environment says which rank it is.

Takes one step over FOLDER/packs under data parallelism and writes the gradients that the optimizer used.
"""

import faulthandler
import sys
from pathlib import Path

import lightning as L
import npu_double
import torch
from torch.utils.data import DataLoader


def main(folder: Path) -> None:
    from mindvl.model.mindvl import MindVL
    from mindvl.parallel.npu_trainer import trainer_arguments
    from mindvl.parallel.random_state import KeepRandomState
    from mindvl.phases import ModelSpec, Multitask, Rates

    class Keep(L.Callback):
        def on_train_start(self, trainer, pl_module):
            def after_step(*_):
                named = pl_module.model.named_parameters()
                gradients = {name: parameter.grad.clone() for name, parameter in named}
                assert {gradient.device.type for gradient in gradients.values()} == {"npu"}
                torch.save(gradients, folder / f"gradients.{trainer.global_rank}")

            trainer.optimizers[0].register_step_post_hook(after_step)

    phase = Multitask(ModelSpec(), rates=Rates(clip_norm=0.0))
    phase.model = MindVL.from_pretrained(folder / "model").train()
    trainer = L.Trainer(
        devices=1,
        num_nodes=2,
        **trainer_arguments(devices=1, num_nodes=2),
        max_steps=1,
        callbacks=[Keep(), KeepRandomState()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    packs = torch.load(folder / "packs", weights_only=False)
    trainer.fit(phase, DataLoader(packs[trainer.global_rank], batch_size=None), val_dataloaders=[])
    torch.manual_seed(trainer.global_rank)
    trainer.save_checkpoint(folder / "last.ckpt")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    kept = npu_double.install()
    main(Path(sys.argv[1]))
