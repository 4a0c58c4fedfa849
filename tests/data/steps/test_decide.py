"""The replay of corpus steps against a slow twin: every step over the whole list of samples, one after the other."""

from collections import Counter

import pytest

from mindvl.data.importing.outcome import Rejected
from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.decide import UnitFates, settle
from mindvl.data.steps.recipe import SPLITS
from mindvl.data.steps.sources import read_unit, units_of
from mindvl.data.steps.table import STEPS, make_step
from mindvl.data.steps.unit import READ, Fate, pass_steps


def settled(recipe):
    """Keys that stay, and (source, step's place among the source's, reason) -> count."""
    done = [UnitFates(unit, [fate for _, fate in pass_steps(recipe, unit)]) for unit in units_of(recipe)]
    settle(recipe, done)
    dropped = Counter((item.unit.source, f.dropped_at, f.reason) for item in done for f in item.fates)
    kept = {fate.key for item in done for fate in item.fates if fate.dropped_at is None}
    return kept, {key: count for key, count in dropped.items() if key[1] is not None}


def one_after_the_other(recipe):
    samples = []
    for unit in sorted(units_of(recipe), key=lambda unit: (SPLITS.index(unit.split), unit.number)):
        samples += [(unit, made) for made in read_unit(recipe, unit) if not isinstance(made, Rejected)]
    dropped = Counter()

    def run(call, place_of, takes_part):
        nonlocal samples
        step, left = make_step(call.name, call.arguments), []
        part = [takes_part(unit) for unit, _ in samples]
        if STEPS[call.name].sees_corpus:
            entries = [Entry(s.key, u.split, step.signature(s)) for (u, s), p in zip(samples, part, strict=True) if p]
            verdicts = iter(step.verdicts(entries))
        for (unit, sample), chosen in zip(samples, part, strict=True):
            result = sample
            if chosen:
                result = (next(verdicts) or sample) if STEPS[call.name].sees_corpus else step(sample)
            if isinstance(result, str):
                dropped[unit.source, place_of(unit), result] += 1
            else:
                left.append((unit, result))
        samples = left

    own = {source.name: len(source.steps) for source in recipe.sources}
    for source in recipe.sources:
        for place, call in enumerate(source.steps):
            run(call, lambda unit, place=place: place, lambda unit, name=source.name: unit.source == name)
    for place, call in enumerate(recipe.steps):
        run(call, lambda unit, place=place: own[unit.source] + place, lambda unit: True)
    return {sample.key for _, sample in samples}, dict(dropped)


def test_settling_fates_is_running_the_steps_one_after_the_other(recipe):
    pytest.importorskip("imagehash")
    given = recipe()
    kept, dropped = settled(given)
    assert (kept, dropped) == one_after_the_other(given)
    assert {place for _, place, _ in dropped} >= {0, 1, 4}  # each kind of step has something to drop


def test_a_step_after_a_corpus_step_gets_no_credit_for_its_victims(recipe):
    sources = {
        "a": {"render": {"family": "stem", "text_only": True, "train": 40, "kinds": ["arithmetic"], "operand": [0, 3]}}
    }
    steps = [{"duplicate_texts": {}}, {"subset": {"ratio": 0.5}}]
    given = recipe(sources=sources, steps=steps)
    kept, dropped = settled(given)
    assert (kept, dropped) == one_after_the_other(given)
    backwards = settled(recipe(sources=sources, steps=steps[::-1]))
    assert backwards[1]["a", 0, "not drawn"] > dropped["a", 1, "not drawn"] > 0


def test_of_twins_the_held_out_one_stays(recipe, raw, tmp_path):
    from mindvl.data.shard_writer import ShardWriter

    for split in ("train", "test"):
        with ShardWriter(tmp_path, split) as writer:
            writer.write(raw("the same words", "in both", key=split))
            writer.write(raw(f"words of {split}", "alone", key=f"{split}-own"))
    sources = {name: {"shards": str(tmp_path / f"{name}-*.tar"), "split": name} for name in ("train", "test")}
    kept, dropped = settled(recipe(sources=sources, steps=[{"duplicate_texts": {}}]))
    assert kept == {"train/0/train-own", "test/0/test", "test/0/test-own"}
    assert dropped == {("train", 0, "says what an earlier text says"): 1}


def test_a_step_that_drops_all_of_a_source_is_an_error_with_its_counts(recipe):
    given = recipe(steps=[{"text_length": {"min_chars": 9000}}])
    with pytest.raises(ValueError, match="source ocr: step text_length drops all 23 samples: 23 x text too short"):
        settled(given)


def test_what_is_left_of_nothing_is_an_error(recipe):
    given = recipe(sources={"a": {"render": {"family": "stem", "train": 2}}}, steps=[])
    (unit,) = units_of(given)
    with pytest.raises(ValueError, match="step read drops all 2 samples: 1 x no file, 1 x no text"):
        settle(given, [UnitFates(unit, [Fate("1", READ, "no file"), Fate("2", READ, "no text")])])
    with pytest.raises(ValueError, match="source a has no samples: 0 records"):
        settle(given, [UnitFates(unit, [])])


def test_a_corpus_step_that_leaves_nothing_at_all_is_an_error(recipe):
    given = recipe(
        sources={"a": {"render": {"family": "stem", "train": 3}}},
        steps=[{"text_share": {"ratio": 0.0}}, {"well_formed": {}}],
    )
    assert len(settled(given)[0]) == 3
    (unit,) = units_of(given)
    fates = [fate for _, fate in pass_steps(given, unit)]
    for fate in fates:
        fate.dropped_at, fate.reason = 0, "surplus"
    with pytest.raises(ValueError, match="no sample is left of 3: 3 x surplus"):
        settle(given, [UnitFates(unit, fates)])


def test_a_step_that_fails_says_on_which_sample(recipe, monkeypatch):
    given = recipe()
    monkeypatch.setattr("mindvl.data.steps.unit.make_step", lambda name, arguments: lambda sample: 1 / 0)
    unit = next(unit for unit in units_of(given) if unit.source == "stem")
    with pytest.raises(ValueError, match="source stem, step text_length, sample stem-train-000000: ZeroDivisionError"):
        list(pass_steps(given, unit))
