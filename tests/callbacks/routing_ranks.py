"""One rank of a validation, started twice by test_routing_consistency.py: routing_ranks.py FOLDER"""

import faulthandler
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import RoutingConsistency
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

CHOICES = [[0.0, 1.0, 1.0, 1.0]]


class Mean(MeanMetric):
    def update(self, recorded):
        super().update(torch.tensor(recorded))


class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        pass


def main(folder: Path) -> None:
    warnings.simplefilter("error", UserWarning)
    for message in (".*LeafSpec.*", ".*does not have many workers.*", ".*across ranks is zero.*", ".*tensorboard.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # A batch is heard once on rank 0; rank 1 reads an empty recording.
    callback = RoutingConsistency(
        lambda module: nullcontext(CHOICES[0] if module.global_rank == 0 else []),
        {"share": Mean()},
        read=lambda recorded: recorded,
        count_tokens=len,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.validate(Model(), DataLoader([torch.ones(1)], batch_size=None), verbose=False)
    logged = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    (folder / f"logged.{trainer.global_rank}").write_text(str(logged))
    torch.distributed.barrier()  # a rank that is gone early takes the others' connections with it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
