"""The data module binds what its option says, and nothing without it."""

import multiprocessing
import os

import lightning as L
import pytest

from mindvl.cli.quiet import quiet_lightning
from mindvl.data import module
from mindvl.data.module import PackedShards, Source
from mindvl.phases import Multitask


class Watch(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.workers = [os.sched_getaffinity(worker.pid) for worker in multiprocessing.active_children()]


@pytest.mark.parametrize("option", [None, "workers", "rank"])
def test_workers_run_on_the_cores_of_their_rank_and_the_rank_itself_if_told(
    option, corpus, make_spec, make_trainer, monkeypatch
):
    quiet_lightning()
    asked, bound, one = [], [], min(os.sched_getaffinity(0))
    monkeypatch.setattr(module, "cores_of_rank", lambda rank, ranks: asked.append((rank, ranks)) or (one,))
    monkeypatch.setattr(module, "bind_process", lambda cores: bound.append(tuple(cores)))
    watch = Watch()
    trainer = make_trainer(max_steps=1, callbacks=(watch,), limit_val_batches=0)
    shards = PackedShards(
        {"text": Source(str(corpus / "train" / "text-*.tar"))}, sequence_length=256, workers=1, bind_cores=option
    )
    trainer.fit(Multitask(make_spec()), shards)
    assert watch.workers == [os.sched_getaffinity(0) if option is None else {one}]
    assert bound == ([(one,)] if option == "rank" else [])
    assert asked == ([] if option is None else [(0, 1)])
