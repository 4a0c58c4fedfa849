"""Ranks of test_strategy.py: strategy_ranks.py FOLDER. Each scenario writes FOLDER/<scenario>.<rank>.result."""

import os
import sys
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from harness import Case, fit
from mindvl_callbacks import PackingStatistics, TokenThroughput
from worlds import run_worlds

import mindvl.phases.base as base
from mindvl.cli.lightning_cli import count_batch, pack_facts
from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.model.mindvl import MindVL
from mindvl.parallel import MindVLStrategy
from mindvl.parallel.mesh import MeshSizes, build_meshes
from mindvl.parallel.sharing import SharedBatches
from mindvl.phases import Multitask
from mindvl.phases.saving import SaveModel

FOLDER = Path(sys.argv[1])
MIXED = {"expert": 2, "tensor": 2}


def keep(scenario: str, result) -> None:
    torch.save(result, FOLDER / f"{scenario}.{os.environ.get('RANK', 0)}.result")


class StopAndSave(L.Callback):
    def __init__(self, step: int, folder: str):
        self.step, self.folder = step, folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(FOLDER / self.folder)
            trainer.should_stop = True


def train_and_save(mesh, folder: str) -> None:
    """One of two steps, and a checkpoint."""
    record, _ = fit(Case(folder, "deepseek_v3", mesh, adam=True), FOLDER, callbacks=[StopAndSave(1, folder)])
    keep(folder, record.losses)


def go_on(mesh, folder: str, scenario: str) -> None:
    record, _ = fit(
        Case(scenario, "deepseek_v3", mesh, adam=True),
        FOLDER,
        callbacks=[SaveModel(FOLDER / f"{scenario} model")],
        ckpt_path=str(FOLDER / folder),
    )
    keep(scenario, {"losses": record.losses, "norms": record.norms, "weights": record.weights})


def memory(mesh, scenario: str) -> None:
    """What a rank holds when the model is cut, and after it has been filled."""
    seen = {}
    build = base.build_model

    def watched(spec, config, *, place):
        def look(model):
            seen["meta before"] = all(parameter.is_meta for parameter in model.parameters())
            place(model)
            seen["meta after"] = all(parameter.is_meta for parameter in model.parameters())

        model = build(spec, config, place=look)
        own = [parameter.to_local() for parameter in model.parameters()]
        seen["elements"], seen["whole"] = sum(t.numel() for t in own), sum(p.numel() for p in model.parameters())
        return model

    base.build_model = watched
    fit(Case(scenario, "deepseek_v3", mesh), FOLDER)
    base.build_model = build
    keep(scenario, seen)


def given_model(mesh, scenario: str) -> None:
    """A phase whose model was built before the strategy saw it."""
    spec = torch.load(FOLDER / "deepseek_v3.spec", weights_only=False)
    torch.manual_seed(7)
    whole = base.build_model(spec, base.config_of(spec, base_tokenizer()))
    build, base.build_model = base.build_model, lambda spec, config, *, place: _placed(whole, place)
    record, _ = fit(Case(scenario, "deepseek_v3", mesh), FOLDER)
    base.build_model = build
    keep(scenario, {"losses": record.losses})


def _placed(model: MindVL, place):
    place(model)
    return model


def base_tokenizer():
    from mindvl.data.tokenizer import byte_tokenizer

    return byte_tokenizer()


def bf16_true(scenario: str) -> None:
    record, trainer = fit(Case(scenario, "deepseek_v3", MIXED, trainer={"precision": "bf16-true"}), FOLDER)
    model = trainer.lightning_module.model
    dtypes = {str(parameter.dtype) for parameter in model.parameters()}
    biases = {str(tensor.dtype) for name, tensor in model.named_buffers() if name.endswith("correction_bias")}
    keep(scenario, {"losses": record.losses, "dtypes": dtypes, "biases": biases})


class Three:
    """Counts how often it is asked; may break."""

    def __init__(self, *, breaks_at: int | None = None):
        self.asked, self.breaks_at = 0, breaks_at

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            self.asked += 1
            if number == self.breaks_at:
                raise OSError("shard 7 is gone")
            ids = torch.arange(number, number + 5)
            yield {
                "ids": ids,
                "wide": ids + 2**40,
                "pixels": torch.full((2, 3), number, dtype=torch.uint8),
                "empty": torch.zeros(0, 4),
                "half": torch.ones(3, dtype=torch.bfloat16),
                "text": ["a", number],
            }


def sharing() -> None:
    dist.init_process_group("gloo")  # the fits that follow take this group: a second rendezvous could meet the first
    group = build_meshes(MeshSizes(tensor=2).over(2), "cpu").pack_group
    source, broken = Three(), Three(breaks_at=1)
    batches = list(SharedBatches(source, group, torch.device("cpu")))
    received, error = 0, None
    try:
        for _ in SharedBatches(broken, group, torch.device("cpu")):
            received += 1
    except (RuntimeError, OSError) as caught:
        error = str(caught)
    keep("sharing", {"batches": batches, "asked": source.asked, "received": received, "error": error})


def refused(scenario: str, model: str, mesh: dict, **fields) -> None:
    try:
        fit(Case(scenario, model, mesh, **fields), FOLDER)
    except (ValueError, TypeError) as error:
        keep(scenario, str(error))


class Reading(L.Callback):
    """Keys of the packs of a run, and its losses."""

    def __init__(self):
        self.keys: list[list[str]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(list(batch.keys))
        if trainer.global_step > len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())


def shards(mesh, scenario: str) -> None:
    """Three steps of two packs over a corpus."""
    L.seed_everything(7, verbose=False)
    phase = Multitask(torch.load(FOLDER / "deepseek_v3.spec", weights_only=False), supervise="answers")
    sources = {name: Source(str(FOLDER / "corpus" / f"{name}-*.tar")) for name in ("ocr", "text")}
    data = PackedShards(sources, validation=dict(list(sources.items())[:1]), sequence_length=192, packs_per_step=2)
    reading, packing = Reading(), PackingStatistics(pack_facts)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=4 if mesh else 1,
        strategy=MindVLStrategy(**mesh) if mesh else "auto",
        max_steps=3,
        max_epochs=-1,
        accumulate_grad_batches=1 if mesh else 2,
        callbacks=[reading, packing, TokenThroughput(count_batch)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=2 if mesh else 4,
        limit_val_batches=1.0,
        log_every_n_steps=1,
        default_root_dir=FOLDER,
    )
    started = []
    start = Process.start
    Process.start = lambda process: started.append(process) or start(process)
    trainer.fit(phase, data)
    Process.start = start
    counted = {name: packing.summary()[name] for name in ("packs", "tokens", "documents", "fill_ratio")}
    found = {"losses": reading.losses, "keys": reading.keys, "packing": counted, "started workers": bool(started)}
    found["validation"] = trainer.callback_metrics["validation/loss"].item()
    keep(scenario, {**found, "consumed": data.state_dict()["consumed"]})


def alone() -> None:
    shards(None, "shards alone")
    train_and_save_plain = Case("alone", "deepseek_v3", adam=True)
    record, _ = fit(train_and_save_plain, FOLDER, callbacks=[SaveModel(FOLDER / "alone model")])
    keep("alone", {"losses": record.losses, "norms": record.norms, "weights": record.weights})


def two() -> None:
    sharing()
    go_on({"expert": 2}, "on four", "four to two")
    train_and_save({"tensor": 2}, "on two")


def four() -> None:
    shards(MIXED, "shards")
    shards({"expert": 2, "context": 2}, "shards shared")
    memory(MIXED, "memory")
    given_model(MIXED, "given")
    bf16_true("bf16-true")
    go_on(MIXED, "on two", "two to four")


def four_first() -> None:
    train_and_save({"expert": 2, "replicate": 2}, "on four")


if __name__ == "__main__":
    quiet_lightning()
    run_worlds({1: alone})
    run_worlds({4: four_first})
    run_worlds({2: two})
    run_worlds({4: four})
    run_worlds({2: lambda: refused("too many", "qwen3", {"shard": 3})})
    run_worlds({2: lambda: refused("heads", "qwen3-odd", {"tensor": 2})})
