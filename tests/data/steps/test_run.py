import json
import re

import pytest

from mindvl.data.reader import read_samples
from mindvl.data.steps import run as run_module
from mindvl.data.steps.run import run_recipe
from mindvl.data.steps.sources import units_of

pytest.importorskip("imagehash")
pytest.importorskip("datasketch")

SMALL = {"sources": {"a": {"render": {"family": "stem", "train": 5}}}, "steps": []}
OTHER = {"sources": {"b": {"render": {"family": "stem", "train": 3}}}, "steps": []}


def test_one_and_two_workers_write_the_same_bytes(recipe, tmp_path, checksums):
    one = run_recipe(recipe("one"), workers=1)
    two = run_recipe(recipe("two"), workers=2)
    assert one == two and checksums(tmp_path / "one") == checksums(tmp_path / "two") != {}
    assert not (tmp_path / "one" / ".work").exists()


def test_shards_hold_the_samples_of_the_report_in_stable_order_and_equal_size(recipe, tmp_path):
    report = run_recipe(recipe(), workers=1)
    assert {s["path"] for s in report["shards"]} == {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tar")
    }
    keys = {s["path"]: [x.key for x in read_samples(str(tmp_path / "out" / s["path"]))] for s in report["shards"]}
    assert {path: len(found) for path, found in keys.items()} == {s["path"]: s["samples"] for s in report["shards"]}
    assert sum(map(len, keys.values())) == report["samples"] == sum(t["samples"] for t in report["splits"].values())
    for source, split in {re.fullmatch(r"(\w+)/(\w+)-\d+\.tar", path).group(2, 1) for path in keys}:
        found = [keys[path] for path in sorted(keys) if path.startswith(f"{split}/{source}-")]
        assert all(len(shard) == 7 for shard in found[:-1]) and 0 < len(found[-1]) <= 7
        joined = [key for shard in found for key in shard]
        assert joined == sorted(joined)
    totals = report["splits"]["train"]
    assert totals["text_only_ratio"] == pytest.approx(0.4, abs=0.02)


def test_a_second_run_changes_nothing(recipe, tmp_path, capsys):
    first = run_recipe(recipe(**SMALL), workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run_recipe(recipe(**SMALL), workers=1) == first
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert "are already there" in capsys.readouterr().err


def test_the_output_of_another_recipe_is_refused_or_replaced_whole(recipe, tmp_path):
    first = run_recipe(recipe(**SMALL), workers=1)
    index = tmp_path / "out/train/a-000000.tar.index.npz"
    index.touch()
    with pytest.raises(ValueError, match=f"made by recipe {first['fingerprint']}, this one is [0-9a-f]+"):
        run_recipe(recipe(**OTHER), workers=1)
    assert (tmp_path / "out/train/a-000000.tar").exists()
    run_recipe(recipe(**OTHER), workers=1, overwrite=True)
    assert [path.name for path in (tmp_path / "out/train").iterdir()] == ["b-000000.tar"]


def test_shards_of_nobody_are_refused(recipe, tmp_path):
    (tmp_path / "out/test").mkdir(parents=True)
    (tmp_path / "out/test/x-000000.tar").touch()
    with pytest.raises(ValueError, match="holds 1 shards of something else"):
        run_recipe(recipe(**SMALL), workers=1)


def test_a_trial_may_be_replaced_and_replaces_nothing(recipe, tmp_path):
    trial = run_recipe(recipe(samples=2, **SMALL), workers=1)
    assert trial["samples"] == 2 and json.loads((tmp_path / "out/recipe.json").read_text())["trial"] == 2
    assert run_recipe(recipe(**SMALL), workers=1)["samples"] == 5
    with pytest.raises(ValueError, match="was made by recipe"):
        run_recipe(recipe(samples=2, **SMALL), workers=1)


def test_an_interrupted_run_goes_on_with_the_units_that_are_missing(recipe, tmp_path, monkeypatch, checksums):
    run_recipe(recipe("whole"), workers=1)
    given, done = recipe("out"), []
    do_unit = run_module.do_unit

    def until_the_third(job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.unit.number)
        return do_unit(job)

    monkeypatch.setattr(run_module, "do_unit", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(given, workers=1)
    assert not (tmp_path / "out/recipe.json").exists()
    drawn = []
    monkeypatch.setattr(run_module, "do_unit", do_unit)
    monkeypatch.setattr("mindvl.data.steps.unit.read_unit", count_calls(drawn))
    run_recipe(given, workers=1)
    assert drawn == [unit.number for unit in units_of(given)][2:]
    assert checksums(tmp_path / "whole") == checksums(tmp_path / "out")


def count_calls(drawn):
    from mindvl.data.steps.sources import read_unit

    def counting(recipe, unit):
        drawn.append(unit.number)
        return read_unit(recipe, unit)

    return counting


def test_a_run_that_fails_leaves_an_older_output_as_it_was(recipe, tmp_path, checksums):
    run_recipe(recipe(**SMALL), workers=1)
    before = checksums(tmp_path / "out/train")
    with pytest.raises(ValueError, match="step subset drops all 3 samples"):
        run_recipe(recipe(**{**OTHER, "steps": [{"subset": {"ratio": 0.0}}]}), workers=1, overwrite=True)
    assert checksums(tmp_path / "out/train") == before
