"""Samples that fail while a run trains are no part of what it has seen, also after stops and under another plan."""

import tarfile
from collections import Counter
from pathlib import Path

import lightning as L
import pytest

from mindvl.batch import SkippedSample
from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.phases import Multitask
from mindvl.phases.skipped import SkippedSamples


class Watch(L.Callback):
    """What the batches of a run held, and a checkpoint in FILE after step `stop`, or in the middle of the next."""

    def __init__(self, file: Path, *, stop: int | None, within_a_step: bool):
        self.file, self.stop, self.within_a_step = file, stop, within_a_step
        self.held: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._unfinished: list = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._unfinished.append(batch)
        done = not trainer.fit_loop._should_accumulate()
        if done:
            for seen in self._unfinished:
                self._count(seen)
            self._unfinished = []
        if trainer.global_step == self.stop and done != self.within_a_step:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True

    def _count(self, batch):
        self.keys.update(batch.keys)
        self.held.update(
            supervised_tokens=batch.num_supervised,
            images=batch.num_images,
            patches=batch.num_patches,
            tokens=batch.num_tokens,
            skipped=len(batch.skipped),
        )
        for source, length in zip(batch.sources, batch.doc_lengths, strict=False):  # holes come after the documents
            self.tokens[source] += length


@pytest.fixture
def shards(tmp_path, write_tar, record, picture):
    """`good`, and `odd`, of whose 24 samples every fourth has a picture that ends early."""
    for name in ("good", "odd"):
        members = []
        for number in range(24):
            image = picture(28, 28 * (1 + number % 3), seed=number)
            if name == "odd" and number % 4 == 0:
                image = image[: len(image) // 2]
            text = record("?" * (number % 5), "answer " * (1 + number % 7), images=1)
            members += [(f"{name}{number:02}.json", text), (f"{name}{number:02}.png", image)]
        write_tar(tmp_path / f"{name}.tar", members)
    return {name: str(tmp_path / f"{name}.tar") for name in ("good", "odd")}


@pytest.fixture
def run(shards, make_spec, with_weights, make_trainer, tmp_path):
    quiet_lightning()

    def start(*, stop=None, resume=False, within_a_step=False, steps=16, weight=1.0, **settings):
        sources = {"good": Source(shards["good"]), "odd": Source(shards["odd"], weight)}
        data = PackedShards(sources, sequence_length=128, workers=0, **settings)
        watch = Watch(tmp_path / "stopped.ckpt", stop=stop, within_a_step=within_a_step)
        phase = with_weights(Multitask(make_spec(), max_skipped_ratio=1.0))
        trainer = make_trainer(max_steps=steps, accumulate_grad_batches=2, callbacks=(watch,), limit_val_batches=0)
        trainer.fit(phase, data, ckpt_path=str(watch.file) if resume else None)
        return watch, data.state_dict()

    return start


def check(record: dict, *parts: Watch) -> None:
    held, keys, tokens = (
        sum((getattr(part, name) for part in parts), Counter()) for name in ("held", "keys", "tokens")
    )
    assert held["skipped"] > 0
    for name in ("tokens", "supervised_tokens", "images", "patches", "skipped"):
        assert sum(source[name] for source in record.values()) == held[name], name
    assert record["good"]["skipped"] == 0
    for name, source in record.items():
        mine = {key: count for key, count in keys.items() if key.startswith(name)}
        times = Counter(mine.values()) | Counter({0: source["samples"] - len(mine)})
        assert source["tokens"] == tokens[name] and source["drawn"] == sum(mine.values())
        assert source["times_drawn"] == {str(n): count for n, count in sorted(times.items()) if count}


@pytest.mark.parametrize("within_a_step", [False, True], ids=["after a step", "within a step"])
def test_the_record_is_what_was_trained_on_without_what_failed_also_after_two_stops(run, within_a_step):
    whole, record = run()
    check(record["consumed"], whole)
    parts = [
        run(stop=stop, resume=stop != 5, within_a_step=within_a_step and stop is not None) for stop in (5, 10, None)
    ]
    assert parts[-1][1]["consumed"] == record["consumed"]
    check(record["consumed"], *(watch for watch, _ in parts))


def test_a_plan_that_is_taken_up_later_counts_its_own_failures_and_keeps_those_of_the_plan_before(run):
    first, _ = run(stop=6)
    middle, _ = run(resume=True, stop=10, weight=0.5, accept_changed_plan=True)
    last, record = run(resume=True, weight=0.5)
    (closed,) = record["closed"]
    check(closed["consumed"], first)
    check(record["consumed"], middle, last)


def test_a_fit_that_is_begun_anew_with_the_same_phase_counts_from_nothing():
    skipped = SkippedSamples(1.0)
    skipped.add([SkippedSample("odd", "odd.tar", "k", "broken", 7)], used=3, step=4)
    assert skipped.rows(before_step=4) == {} and skipped.rows(before_step=5) == {7: 1}
    skipped.forget_rows()
    assert skipped.rows(before_step=5) == {} and skipped.total == 1


def test_a_source_of_which_most_is_damaged_is_refused_before_the_first_step(shards, make_spec, make_trainer):
    path = Path(shards["odd"])
    with tarfile.open(path) as tar:
        records = [member for member in tar if member.name.endswith(".json")][:18]
    data = bytearray(path.read_bytes())
    for member in records:
        data[member.offset_data] ^= 1
    path.write_bytes(data)
    shards = PackedShards({"odd": Source(str(path))}, sequence_length=128, workers=0)
    with pytest.raises(
        ValueError, match=r"source odd .*: 18 of 24 samples \(75\.0%\) .* max_skipped_ratio=0\.05: 18 x"
    ):
        make_trainer().fit(Multitask(make_spec()), shards)
