"""One rank of a run with unequal shares, started twice by test_packing_statistics.py: unequal_ranks.py FOLDER"""

import faulthandler
import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import PackFacts, PackingStatistics, device_clock
from torch.utils.data import DataLoader

ACCUMULATED, STEPS, LOG_EVERY = 2, 3, 2
COSTS = [[1, 3, 2, 2, 1, 1], [3, 1, 2, 6, 1, 3]]
FORWARD_S = [[1, 1, 1, 1, 1, 1], [1, 3, 1, 3, 1, 1]]
BACKWARD_S = [100, 0]
DOCUMENTS = [[60], [20, 20]]
FAILED = [{}, {"failed": 10}]
"""By rank; the second rank's failure is in its first pack only."""


class Clock:
    """Stands in for the module `time`."""

    now_s = 0.0

    def perf_counter(self):
        return self.now_s


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        device_clock.time.now_s += batch["forward_s"]
        return super().training_step(batch["x"], batch_idx)

    def on_after_backward(self):
        device_clock.time.now_s += BACKWARD_S[self.global_rank]


class Probe(L.Callback):
    """Keeps, after each micro-batch, the packs that a checkpoint would know of, and what was logged at last."""

    def __init__(self, statistics):
        self.statistics, self.packs, self.logged = statistics, [], {}

    def on_train_batch_end(self, trainer, *_):
        self.packs.append(self.statistics.state_dict()["sums"].get("packs", 0))
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def read(batch):
    return PackFacts(batch["documents"], 100, wasted_tokens=batch["wasted"])


def main(folder: Path) -> None:
    device_clock.time = Clock()
    statistics = PackingStatistics(read, cost=lambda batch: batch["cost"])
    probe = Probe(statistics)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        accumulate_grad_batches=ACCUMULATED,
        log_every_n_steps=LOG_EVERY,
        callbacks=[statistics, probe],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    rank = trainer.global_rank
    packs = [
        {"x": torch.ones(1, 32), "documents": DOCUMENTS[rank], "wasted": {}, "cost": cost, "forward_s": seconds}
        for cost, seconds in zip(COSTS[rank], FORWARD_S[rank], strict=True)
    ]
    packs[0]["wasted"] = FAILED[rank]
    trainer.fit(Model(), DataLoader(packs, batch_size=None, collate_fn=lambda pack: pack))
    result = {"logged": probe.logged, "packs": probe.packs, "summary": statistics.summary()}
    (folder / f"result.{rank}").write_text(json.dumps(result))
    torch.distributed.barrier()  # a rank that is gone early takes the others' connections with it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
