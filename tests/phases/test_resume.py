"""A run that was stopped and resumed is the run that was not."""

import lightning as L
import pytest
import torch

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
    def start(*, weights=0, stop=None, resume=False, accumulate=2, weight=1.0, steps=STEPS, **data):
        sources = {
            name: Source(str(corpus / "train" / f"{name}-*.tar"), weight) for name in ("ocr", "counting", "text")
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


@pytest.mark.parametrize("accumulate", [1, 3])
def test_with_another_accumulation_the_run_goes_on_with_the_next_pack(accumulate, run):
    whole, _, _ = run(steps=STOP + 6)
    run(stop=STOP, steps=STOP + 6)
    after, _, trainer = run(resume=True, accumulate=accumulate, steps=STOP + 4)
    assert trainer.global_step == STOP + 4
    assert after.keys == whole.keys[STOP * 2 :][: 4 * accumulate]


def test_an_accumulation_that_does_not_divide_the_packs_seen_is_refused_with_both_numbers(run):
    run(stop=STOP)
    with pytest.raises(ValueError, match="stopped after 6 packs, which is no whole number of steps of 4 packs"):
        run(resume=True, accumulate=4)


CHANGES = {"weights": {"weight": 2.0}, "seed": {"seed": 1}, "sequence length": {"sequence_length": 300}}


@pytest.mark.parametrize("change", CHANGES)
def test_a_resume_with_another_plan_is_refused_with_both_fingerprints(change, run):
    _, _, trainer = run(stop=STOP)
    old = trainer.datamodule.plan_fingerprint
    with pytest.raises(ValueError, match=f"trained on plan {old}, the data now gives plan [0-9a-f]+-[0-9a-f]+"):
        run(resume=True, **CHANGES[change])


def test_what_was_left_out_is_still_known_after_a_resume(run, make_spec, with_weights):
    phase = with_weights(Multitask(make_spec()))
    phase.skipped["ocr: the picture does not decode"] += 3
    phase._seen_samples = 40
    checkpoint: dict = {}
    phase.on_save_checkpoint(checkpoint)
    other = with_weights(Multitask(make_spec()))
    other.on_load_checkpoint(checkpoint)
    assert other.skipped == phase.skipped and other._seen_samples == 40
