import json

from mindvl.data.raw import RawSample
from mindvl.data.reader import read_samples
from mindvl.data.steps.sources import units_of
from mindvl.data.steps.unit import UnitJob, do_unit, load_fates, pass_steps


def test_a_unit_leaves_its_survivors_and_a_fate_for_every_sample(recipe, tmp_path):
    given = recipe()
    unit = next(unit for unit in units_of(given) if unit.source == "stem")
    job = UnitJob(given, unit, tmp_path)
    assert do_unit(job) == 30
    fates = load_fates(job)
    assert fates == [fate for _, fate in pass_steps(given, unit)]
    survivors = [fate.key for fate in fates if fate.dropped_at is None]
    assert [sample.key for sample in read_samples(str(job.shard_path))] == survivors != []
    reasons = {(fate.dropped_at, fate.reason) for fate in fates if fate.dropped_at is not None}
    assert reasons == {(0, "text too long")}
    # The source's own step comes first, so the corpus steps of the recipe are at places 1, 2 and 4.
    assert {place for fate in fates for place in fate.signatures} == {1, 2, 4}


def test_a_unit_that_is_done_is_not_done_again(recipe, tmp_path):
    job = UnitJob(recipe(), units_of(recipe())[0], tmp_path)
    job.fates_path.write_text(json.dumps([{"key": "a", "signatures": {"1": "ff"}}]))
    assert do_unit(job) == 1 and load_fates(job)[0].signatures == {1: "ff"}
    assert not job.shard_path.exists()


def test_what_a_step_changes_is_what_later_steps_see_and_what_is_measured(recipe, raw, monkeypatch):
    def read(recipe, unit):
        yield raw("padded   ", "yes  ", ((30, 40), (50, 60)))
        yield RawSample("odd", {"messages": [{"role": "assistant", "content": "text"}]}, (b"none",))

    monkeypatch.setattr("mindvl.data.steps.unit.read_unit", read)
    given = recipe(
        sources={"a": {"render": {"family": "stem", "train": 2}}},
        steps=[{"clean_text": {}}, {"text_length": {"max_chars": 9}}],
    )
    (sample, fate), (_, odd) = pass_steps(given, units_of(given)[0])
    assert sample.messages[0]["content"][-1]["text"] == "padded"
    assert (fate.chars, fate.picture_sizes) == (9, [[30, 40], [50, 60]])
    assert fate.picture_bytes == sum(map(len, sample.images))
    assert (odd.picture_sizes, odd.dropped_at) == ([[0, 0]], None)  # no step of this recipe looks at pictures
