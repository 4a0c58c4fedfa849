"""Names of checkpoints through every rename, and what is found after a kill between two of them."""

import pytest

from mindvl.parallel.checkpoint.folder import (
    behind_last,
    clear_leftovers,
    is_last,
    newest,
    point,
    publish,
    remove,
    stage,
    staging_of,
)
from mindvl.parallel.checkpoint.manifest import MANIFEST, Manifest


@pytest.fixture
def whole(tmp_path):
    """A finished checkpoint of a name and a step."""

    def make(name: str, step: int = 1, mark: str = "") -> object:
        target = tmp_path / name
        stage(target)
        (staging_of(target) / "data").write_text(mark)
        (staging_of(target) / MANIFEST).write_text(Manifest(step, 1, {}, True, {}).text())
        publish(target)
        return target

    return make


def test_a_checkpoint_has_its_name_only_when_it_is_published(tmp_path):
    target = tmp_path / "deep" / "step-1.ckpt"
    stage(target)
    assert not target.exists() and staging_of(target).is_dir()
    publish(target)
    assert target.is_dir() and [path.name for path in target.parent.iterdir()] == ["step-1.ckpt"]


def test_another_of_the_same_name_takes_its_place(whole, tmp_path):
    whole("step-1.ckpt", mark="old")
    target = whole("step-1.ckpt", mark="new")
    assert (target / "data").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1.ckpt"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("last.ckpt", True), ("last-v2.ckpt", True), ("last-400.ckpt", False), ("lasting.ckpt", False)],
)
def test_pointers_are_told_by_their_names(name, expected, tmp_path):
    assert is_last(tmp_path / name) is expected


def test_what_a_pointer_leads_to_is_removed_only_when_it_leads_elsewhere(whole, tmp_path):
    first, second, last = whole("step-1.ckpt"), whole("step-2.ckpt"), tmp_path / "last.ckpt"
    assert point(last, first) is None
    assert remove(first) is False and first.is_dir()
    assert point(last, second) is None  # step-1.ckpt has a name of its own: only ModelCheckpoint may remove it
    assert remove(first) is True and not first.exists()
    assert last.resolve() == second


def test_a_directory_that_only_a_pointer_led_to_goes_with_it(whole, tmp_path):
    last = tmp_path / "last.ckpt"
    first, second = behind_last(last, 1), behind_last(last, 2)
    whole(first.name), whole(second.name)
    point(last, first)
    assert point(last, second) == first
    assert remove(first) and remove(last)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", ["file", "directory"])
def test_a_pointer_replaces_what_an_earlier_run_has_left_under_its_name(before, whole, tmp_path):
    last = tmp_path / "last.ckpt"
    last.write_text("") if before == "file" else whole("last.ckpt")
    target = whole("step-2.ckpt", 2)
    point(last, target)
    assert last.resolve() == target and len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_kill_are_removed_and_nothing_else(whole, tmp_path):
    kept = whole("step-1.ckpt")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".step-3.ckpt.incomplete").mkdir()  # not ours
    stage(tmp_path / "step-2.ckpt")
    kept.with_name(".step-0.ckpt.mindvl-removed").mkdir()
    assert clear_leftovers(tmp_path) == [tmp_path / "step-2.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", ".step-3.ckpt.incomplete", "step-1.ckpt"]


def test_a_checkpoint_killed_while_it_was_replaced_comes_back(whole, tmp_path):
    target = whole("step-1.ckpt", mark="old")
    target.rename(tmp_path / ".step-1.ckpt.mindvl-replaced")
    assert clear_leftovers(tmp_path) == []
    assert (target / "data").read_text() == "old"


def test_the_newest_is_what_last_leads_to(whole, tmp_path):
    whole("step-9.ckpt", 9)
    point(tmp_path / "last.ckpt", whole("step-2.ckpt", 2))
    assert newest(tmp_path) == tmp_path / "last.ckpt"


def test_without_a_usable_last_the_newest_is_the_whole_one_of_the_most_steps(whole, tmp_path, caplog):
    whole("step-10.ckpt", 10), whole("step-9.ckpt", 9)
    stage(tmp_path / "step-11.ckpt")
    (tmp_path / "step-12.ckpt").mkdir()
    (tmp_path / "last.ckpt").symlink_to("step-13.ckpt")
    assert newest(tmp_path) == tmp_path / "step-10.ckpt"
    assert "last.ckpt is no whole checkpoint and is passed over" in caplog.text


def test_a_single_file_is_a_checkpoint_too(tmp_path):
    assert newest(tmp_path) is None and newest(tmp_path / "nowhere") is None
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    assert newest(tmp_path) == tmp_path / "last.ckpt"
