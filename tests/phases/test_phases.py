"""Each phase moves exactly the weights it says, on real shards."""

import dataclasses

import pytest
import torch

from mindvl.batch import SkippedSample
from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.model.parts import part_of
from mindvl.phases import InstructionTuning, LanguageOnly, Multitask, Rates, WarmUp

PHASES = {
    WarmUp: {"projector"},
    Multitask: {"vision", "projector", "language"},
    InstructionTuning: {"projector", "language"},
    LanguageOnly: {"language"},
}


@pytest.fixture
def shards(corpus):
    def make(*names, **settings) -> PackedShards:
        train = {name: Source(str(corpus / "train" / f"{name}-*.tar")) for name in names or ("ocr", "counting", "text")}
        return PackedShards(train, **{"sequence_length": 256, "workers": 0, **settings})

    return make


def moved(phase, before):
    return {name for name, tensor in phase.model.named_parameters() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("kind", PHASES, ids=lambda kind: kind.__name__)
def test_a_step_moves_every_weight_of_the_trained_parts_and_no_other(
    kind, make_spec, with_weights, make_trainer, shards
):
    phase = with_weights(kind(make_spec()))
    before = {name: tensor.detach().clone() for name, tensor in phase.model.named_parameters()}
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(phase, shards("text") if kind is LanguageOnly else shards())
    assert moved(phase, before) == {name for name in before if part_of(name) in PHASES[kind]}


def test_instruction_tuning_takes_its_parts_from_the_config(make_spec, with_weights, make_trainer, shards):
    phase = with_weights(InstructionTuning(make_spec(), trains=["language"]))
    before = {name: tensor.detach().clone() for name, tensor in phase.model.named_parameters()}
    make_trainer(max_steps=1, limit_val_batches=0).fit(phase, shards())
    assert {part_of(name) for name in moved(phase, before)} == {"language"}


def test_training_on_a_handful_of_samples_lowers_their_loss(make_spec, make_trainer, shards):
    torch.manual_seed(0)
    phase = Multitask(make_spec(), rates=Rates(warmup_steps=2))
    losses = []
    phase.on_train_batch_end = lambda *_: losses.append(phase.trainer.callback_metrics["train/loss"].item())
    make_trainer(max_steps=30, limit_val_batches=0).fit(phase, shards("text"))
    assert losses[0] == pytest.approx(5.6, abs=0.3), "a model that knows nothing guesses among 272 tokens"
    assert losses[-1] < 4.7


def test_what_is_logged_per_step_has_the_units_of_the_docstring(make_spec, with_weights, make_trainer, shards):
    trainer = make_trainer(max_steps=1, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(with_weights(Multitask(make_spec())), shards())
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert 0 < logged["train/pack_fill_ratio"] <= 1 and logged["train/skipped_samples"] == 0
    assert logged["train/pack_fill_ratio"] == pytest.approx(logged["train/tokens"] / 512)
    assert 0 < logged["train/supervised_tokens"] < logged["train/tokens"] and logged["train/images"] >= 1
    assert logged["lr/vision"] == pytest.approx(2e-3 / 21) and logged["train/grad_norm"] > 0


def test_the_validation_loss_is_the_mean_over_all_supervised_tokens(
    make_spec, with_weights, make_trainer, corpus, shards
):
    folder = str(corpus / "validation" / "ocr-*.tar")
    results = []
    for sequence_length in (128, 1024):
        data = shards("ocr", validation={"ocr": Source(folder)}, sequence_length=sequence_length)
        (metrics,) = make_trainer().validate(with_weights(Multitask(make_spec())), data, verbose=False)
        results.append(metrics["validation/loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_a_fit_without_validation_sources_warns_of_nothing(make_spec, with_weights, make_trainer, shards):
    quiet_lightning()
    make_trainer(max_steps=1).fit(with_weights(Multitask(make_spec())), shards())


def test_two_samples_that_cannot_be_used_in_a_hundred_do_not_stop_a_run_and_most_of_them_do(
    make_spec, with_weights, samples, pack, fit_packs
):
    def left_out(count):
        bad = [SkippedSample("made", "a.tar", f"k{n}", "the picture does not decode") for n in range(count)]
        return dataclasses.replace(pack(*samples), skipped=tuple(bad))

    phase = with_weights(Multitask(make_spec(), max_skipped_ratio=0.5))
    fit_packs(phase, [left_out(1)])
    assert phase.skipped.by_reason() == {"made: the picture does not decode": 1}
    with pytest.raises(
        ValueError, match=r"12 of 16 samples \(75\.0%\) could not .* than max_skipped_ratio=0\.5: 12 x .*dec"
    ):
        fit_packs(with_weights(Multitask(make_spec(), max_skipped_ratio=0.5)), [left_out(12)])


def test_a_run_without_a_number_of_steps_is_refused(make_spec, with_weights, make_trainer, shards):
    with pytest.raises(ValueError, match="max_steps is -1; the plan and the schedule need a number"):
        make_trainer(max_steps=-1, max_epochs=1, limit_val_batches=0).fit(with_weights(WarmUp(make_spec())), shards())
