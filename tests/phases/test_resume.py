"""A run that was stopped and resumed is the run that was not."""

import shutil
from collections import Counter
from dataclasses import replace

import lightning as L
import pytest
import torch

from mindvl.batch import SkippedSample
from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.phases import Multitask

STEPS, STOP = 6, 3


class Watch(L.Callback):
    """Losses and sample keys of every step; stops after step `stop`, leaving a checkpoint."""

    def __init__(self, folder, stop: int | None = None):
        self.folder, self.stop = folder, stop
        self.losses: list[float] = []
        self.keys: list[tuple[str, ...]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(batch.keys)
        if trainer.fit_loop._should_accumulate():
            return
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.folder / "stopped.ckpt")
            trainer.should_stop = True


@pytest.fixture(autouse=True)
def quiet():
    """Lightning does not know that the plan makes a loader resumable, and says so; the front door silences it."""
    quiet_lightning()


@pytest.fixture
def run(corpus, make_spec, with_weights, make_trainer, tmp_path):
    def start(
        *,
        names=("ocr", "counting", "text"),
        weights=0,
        stop=None,
        resume=False,
        accumulate=2,
        weight=1.0,
        steps=STEPS,
        folder=corpus,
        max_epochs=None,
        limits=None,
        **data,
    ):
        sources = {
            name: Source(
                str(folder / "train" / f"{name}-*.tar"), weight, max_epochs=(limits or {}).get(name, max_epochs)
            )
            for name in names
        }
        shards = PackedShards(sources, **{"sequence_length": 256, "workers": 0, **data})
        phase = with_weights(Multitask(make_spec()), seed=weights)
        watch = Watch(tmp_path, stop)
        trainer = make_trainer(
            max_steps=steps, accumulate_grad_batches=accumulate, callbacks=(watch,), limit_val_batches=0
        )
        trainer.fit(phase, shards, ckpt_path=str(tmp_path / "stopped.ckpt") if resume else None)
        return watch, phase.model.state_dict(), trainer

    return start


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_and_resumed_run_has_bit_equal_losses_and_weights(workers, run):
    whole, weights, _ = run(workers=workers)
    before, _, _ = run(workers=workers, stop=STOP)
    after, resumed, trainer = run(workers=workers, resume=True, weights=1)
    assert trainer.global_step == STEPS and len(whole.losses) == STEPS and len(before.losses) == STOP
    assert before.losses + after.losses == whole.losses
    assert before.keys + after.keys == whole.keys
    for name, tensor in weights.items():
        assert torch.equal(tensor, resumed[name]), name


def test_the_number_of_workers_may_change_at_the_stop(run):
    whole, weights, _ = run()
    run(stop=STOP)
    after, resumed, _ = run(workers=2, resume=True, weights=1)
    assert after.keys == whole.keys[STOP * 2 :] and after.losses == whole.losses[STOP:]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_stopped_at_any_step_the_run_sees_exactly_the_remaining_samples(stop, run):
    whole, weights, _ = run()
    before, _, _ = run(stop=stop)
    after, resumed, _ = run(resume=True, weights=1, workers=stop % 2)
    assert before.keys + after.keys == whole.keys and before.losses + after.losses == whole.losses
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("accumulate", [1, 3, 4])
def test_with_steps_of_another_size_the_run_goes_on_with_the_next_pack_of_its_plan(accumulate, run, caplog):
    whole, _, _ = run(steps=STOP + 8)
    run(stop=STOP, steps=STOP + 8)
    after, _, trainer = run(resume=True, accumulate=accumulate, steps=STOP + 4)
    assert trainer.global_step == STOP + 4
    assert after.keys == whole.keys[STOP * 2 :][: 4 * accumulate]
    assert f"a step takes {accumulate} packs, the plan is made for 2" in caplog.text
    assert trainer.datamodule.next_pack == STOP * 2 + 4 * accumulate


CHANGES = {
    "ocr.weight: 1.0 in the checkpoint, 2.0 now": {"weight": 2.0},
    "seed: 0 in the checkpoint, 1 now": {"seed": 1},
    "sequence_length: 256 in the checkpoint, 300 now": {"sequence_length": 300},
    "patch_budget: 1024 in the checkpoint, 512 now": {"patch_budget": 512},
    "weigh_by: epochs in the checkpoint, tokens now": {"weigh_by": "tokens"},
    "packs_per_step: 2 in the checkpoint, 4 now": {"packs_per_step": 4},
    "text.samples: 20 in the checkpoint, absent now": {"names": ("ocr", "counting")},
}


@pytest.mark.parametrize("difference", CHANGES)
def test_a_resume_with_another_plan_is_refused_with_what_has_changed(difference, run):
    _, _, trainer = run(stop=STOP)
    old = trainer.datamodule.plan_fingerprint
    with pytest.raises(ValueError, match=f"trained on plan {old}, the data now gives plan [0-9a-f]+:") as refused:
        run(resume=True, **CHANGES[difference])
    assert f"\n  {difference}\n" in str(refused.value) and "data.accept_changed_plan=true" in str(refused.value)


def test_a_changed_plan_that_is_accepted_begins_with_its_next_epoch_and_both_are_on_record(run, tmp_path):
    before, _, _ = run(stop=STOP)
    after, _, trainer = run(resume=True, weight=0.5, accept_changed_plan=True)
    state = trainer.datamodule.state_dict()
    assert state["first_epoch"] == 1 and state["next_pack"] == (STEPS - STOP) * 2 and len(state["closed"]) == 1
    old, new = state["closed"][0], state
    assert old["next_pack"] == STOP * 2 and old["description"]["ocr.weight"] == 1.0
    for record, keys in ((old["consumed"], before.keys), (new["consumed"], after.keys)):
        assert sum(source["drawn"] for source in record.values()) == sum(map(len, keys))
    # The same command again: the plan is now the checkpoint's own.
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    _, _, again = run(resume=True, weight=0.5, accept_changed_plan=True, steps=STEPS + 2)
    assert again.datamodule.state_dict()["next_pack"] == (STEPS - STOP + 2) * 2
    assert len(again.datamodule.state_dict()["closed"]) == 1


def test_a_limited_source_that_joins_with_an_accepted_plan_is_seen_and_a_seen_one_no_more(run):
    before, _, first = run(names=("counting", "text"), limits={"text": 1.0}, stop=8, steps=40)
    assert first.datamodule.state_dict()["epoch"] == 1
    limits = {"text": 1.0, "ocr": 0.5}
    after, _, trainer = run(resume=True, limits=limits, steps=40, stop=10, accept_changed_plan=True)
    again, _, last = run(resume=True, limits=limits, steps=40)
    seen = [Counter(key.partition("-")[0] for keys in watch.keys for key in keys) for watch in (before, after, again)]
    assert seen[0]["text"] == 20 and seen[1]["text"] == seen[2]["text"] == 0
    assert seen[1]["ocr"] + seen[2]["ocr"] == 20 and seen[2]["counting"] > 20
    assert last.datamodule.plan_fingerprint == trainer.datamodule.plan_fingerprint
    closed = last.datamodule.state_dict()["closed"]
    assert [set(plan) >= {"left_out", "cut", "reached"} for plan in closed] == [True]


def test_the_record_of_consumed_data_is_what_the_batches_held_also_after_two_stops(run):
    seen = Counter()
    for stop, resume in ((2, False), (4, True), (None, True)):
        watch, _, trainer = run(stop=stop, resume=resume)
        seen.update(key for keys in watch.keys for key in keys)
    record = trainer.datamodule.state_dict()["consumed"]
    for name, source in record.items():
        mine = {key: count for key, count in seen.items() if key.startswith(name)}
        assert source["drawn"] == sum(mine.values())
        times = Counter(mine.values())
        times[0] = source["samples"] - len(mine)
        assert source["times_drawn"] == {str(n): count for n, count in sorted(times.items()) if count}


def test_a_moved_folder_is_the_same_data(run, corpus, tmp_path, monkeypatch):
    whole, _, _ = run()
    run(stop=STOP)
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    after, _, _ = run(resume=True, folder=moved)
    assert after.keys == whole.keys[STOP * 2 :]


def test_a_run_longer_than_its_limited_sources_is_refused_before_the_first_step(run):
    with pytest.raises(ValueError, match=r"the plan ends before pack \d+: every source has reached its max_epochs"):
        run(max_epochs=0.2, steps=200)


def test_skipped_samples_are_still_known_after_a_resume_and_counted_once(make_spec):
    phase, other = Multitask(make_spec()), Multitask(make_spec())
    bad = SkippedSample("ocr", "a.tar", "k1", "the picture does not decode")
    phase.skipped.add([bad, replace(bad, key="k2")], used=10, step=1)
    checkpoint: dict = {}
    phase.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    other.skipped.add([replace(bad, shard="b.tar", key="k3")], used=5, step=2)
    state = other.skipped.state_dict()
    assert state["counts"] == [
        ["ocr", "a.tar", "the picture does not decode", 2], ["ocr", "b.tar", "the picture does not decode", 1]
    ]  # fmt: skip
    assert state["seen"] == 18 and other.skipped.total == 3
    assert other.skipped.by_reason() == {"ocr: the picture does not decode": 3}
    assert state["examples"] == [["ocr", "the picture does not decode", ["a.tar: k1", "a.tar: k2", "b.tar: k3"]]]


def test_a_share_of_bad_samples_above_the_ceiling_stops_the_run_with_both_numbers(make_spec):
    skipped = Multitask(make_spec(), max_skipped_ratio=0.1).skipped
    bad = [SkippedSample("ocr", "a.tar", f"k{n}", "broken") for n in range(11)]
    skipped.add(bad, used=100, step=1)
    skipped.check()
    skipped.add(bad[:2], used=0, step=2)
    with pytest.raises(
        ValueError, match=r"13 of 113 samples \(11\.5%\) could not be used, more than max_skipped_ratio=0\.1"
    ):
        skipped.check()
