"""One rank of a fit whose weights are averaged, started twice by test_checkpoint_averaging.py.

averaging_ranks.py FOLDER ddp|sharded|tensor|poison
"""

import faulthandler
import os
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import ModelParallelStrategy
from mindvl_callbacks import CheckpointAveraging
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.utils.data import DataLoader


class Model(BoringModel):
    """Five rows, so that the two ranks' shards are unequal."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.layer = torch.nn.Sequential(torch.nn.Linear(32, 5), torch.nn.Linear(5, 2))
        self.register_buffer("count", torch.tensor(0))

    def configure_model(self):
        if self.how in ("sharded", "poison"):
            fully_shard(self.layer[0], mesh=self.device_mesh["data_parallel"])
            fully_shard(self.layer[1], mesh=self.device_mesh["data_parallel"])
        elif self.how == "tensor":
            parallelize_module(self.layer[1], self.device_mesh["tensor_parallel"], ColwiseParallel())

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        self.count += 1
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keep(L.Callback):
    """Whole weights after every step, gathered, for the plain mean."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.states.append(whole(pl_module))


class Poison(L.Callback):
    """One rank's share of a weight is no number after the second step."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            pl_module.layer[1].weight.data.to_local().fill_(float("nan"))


def whole(module):
    state = module.state_dict()
    return {
        key: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for key, value in state.items()
    }


def main(folder: Path, how: str) -> None:
    sizes = {"sharded": (2, 1), "poison": (2, 1), "tensor": (1, 2)}
    keep = Keep()
    averages = [
        CheckpointAveraging(folder / "last", every_n_steps=1, last=3),
        CheckpointAveraging(folder / "all", at_steps=[1, 3, 4], load_at_end=True),
    ]
    if how == "ddp":
        strategy = "ddp"
    else:
        data, tensor = sizes[how]
        strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=5,
        callbacks=[Poison(), *averages] if how == "poison" else [keep, *averages],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    L.seed_everything(1)
    model = Model(how)
    seed = 0 if how == "tensor" else trainer.global_rank
    inputs = torch.randn(5, 4, 32, generator=torch.Generator().manual_seed(seed))
    trainer.fit(model, DataLoader(inputs, batch_size=None))
    loaded = whole(model)
    if trainer.is_global_zero:
        torch.save({"states": keep.states, "loaded": loaded}, folder / "result.pt")
    torch.distributed.barrier()  # a rank that is gone early takes the others' connections with it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # a busy disk makes each of them wait for minutes, and no power fails here
    main(Path(sys.argv[1]), sys.argv[2])
