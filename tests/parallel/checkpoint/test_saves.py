"""One rank's saves: round trips, pointers, removal, the background, and what is wrong with a checkpoint."""

import json
import pickle
import threading
from concurrent.futures import wait

import pytest
import torch
from mindvl_callbacks.averaging_opening import open_checkpoint

from mindvl.parallel.checkpoint.manifest import read_manifest
from mindvl.parallel.checkpoint.writing import CheckpointWriter


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(saves, trained, tmp_path, rest):
    """A checkpoint of step 7, the model and the optimizer."""
    model, optimizer = trained(1)
    target = tmp_path / "step-7.ckpt"
    saves().save(target, model, [optimizer], rest(7, epoch=2), background=False)
    return target, model, optimizer


def same(first, second) -> bool:
    model, optimizer = first
    theirs, their_optimizer = second
    states = zip(optimizer.state.values(), their_optimizer.state.values(), strict=True)
    return (
        all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), theirs.state_dict().values(), strict=True))
        and all(torch.equal(a[key], b[key]) for a, b in states for key in a)
        and optimizer.param_groups[0]["lr"] == their_optimizer.param_groups[0]["lr"]
    )


def test_a_checkpoint_fills_another_model_and_optimizer_to_the_bit(saved, saves, trained):
    target, *before = saved
    other = trained(2)
    assert not same(before, other)
    found = saves().load(target, other[0], [other[1]])
    assert same(before, other)
    assert found["global_step"] == 7 and found["epoch"] == 2 and "state_dict" not in found


def test_the_manifest_lists_every_other_file(saved):
    target, *_ = saved
    manifest = read_manifest(target)
    assert names(target) == [".metadata", "__0_0.distcp", "manifest.json", "meta.pt"]
    assert set(manifest.files) == {".metadata", "__0_0.distcp", "meta.pt"}
    assert {name: facts.bytes for name, facts in manifest.files.items()} == {
        name: (target / name).stat().st_size for name in manifest.files
    }
    assert (manifest.step, manifest.ranks, manifest.optimizer) == (7, 1, True)


def test_weights_alone_serve_where_no_optimizer_goes_on(saves, trained, tmp_path):
    model, optimizer = trained(1)
    saves().save(tmp_path / "weights.ckpt", model, [optimizer], {"global_step": 3}, background=False)
    other, other_optimizer = trained(2)
    saves().load(tmp_path / "weights.ckpt", other, [])
    assert torch.equal(other.model[0].weight, model.model[0].weight)
    with pytest.raises(ValueError, match=r"cannot go on from .*weights.ckpt: it holds weights alone"):
        saves().load(tmp_path / "weights.ckpt", other, [other_optimizer])


def test_last_after_another_of_the_same_step_is_a_link_to_it(saves, trained, tmp_path, rest):
    run = saves()
    for step in (1, 2):
        model, optimizer = trained(step)
        run.save(tmp_path / f"step-{step}.ckpt", model, [optimizer], rest(step), background=False)
        if step == 2:
            run.remove(tmp_path / "step-1.ckpt")
            assert names(tmp_path) == ["last.ckpt", "step-1.ckpt", "step-2.ckpt"]  # last.ckpt still leads there
        run.save(tmp_path / "last.ckpt", model, [optimizer], rest(step), background=False)
    assert names(tmp_path) == ["last.ckpt", "step-2.ckpt"]
    assert (tmp_path / "last.ckpt").readlink().name == "step-2.ckpt"


def test_last_without_another_of_its_step_has_a_directory_behind_it(saves, trained, tmp_path, rest):
    run, (model, optimizer) = saves(), trained()
    for step in (1, 2):
        run.save(tmp_path / "last.ckpt", model, [optimizer], rest(step), background=False)
    assert names(tmp_path) == ["last-2.ckpt", "last.ckpt"]
    assert read_manifest(tmp_path / "last.ckpt").step == 2


@pytest.fixture
def held(monkeypatch):
    """Background writing waits until the event is set."""
    go_on, write = threading.Event(), CheckpointWriter.write_data

    def wait_and_write(writer, plan, planner):
        assert go_on.wait(20)
        return write(writer, plan, planner)

    monkeypatch.setattr(CheckpointWriter, "write_data", wait_and_write)
    return go_on


def test_the_background_writes_the_state_as_it_was_when_it_was_saved(saves, trained, tmp_path, held, rest):
    run, (model, optimizer) = saves(), trained(1)
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(1), background=True)
    run.save(tmp_path / "last.ckpt", model, [optimizer], rest(1), background=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    run.poll()
    assert names(tmp_path) == [".step-1.ckpt.mindvl-incomplete"]
    held.set()
    run.settle()
    assert names(tmp_path) == ["last.ckpt", "step-1.ckpt"]
    other = trained(2)
    saves().load(tmp_path / "last.ckpt", other[0], [other[1]])
    assert same(trained(1), other)


def test_nothing_is_removed_while_its_successor_is_being_written(saves, trained, tmp_path, held, rest):
    run, (model, optimizer) = saves(), trained()
    held.set()
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(1), background=False)
    held.clear()
    run.save(tmp_path / "step-2.ckpt", model, [optimizer], rest(2), background=True)
    run.remove(tmp_path / "step-1.ckpt")
    assert (tmp_path / "step-1.ckpt").is_dir()
    held.set()
    run.settle()
    assert names(tmp_path) == ["step-2.ckpt"]


@pytest.mark.parametrize("background", [False, True])
def test_a_failed_save_says_so_and_leaves_what_was_there(background, saves, trained, tmp_path, monkeypatch, rest):
    run, (model, optimizer) = saves(), trained()
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(1), background=False)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointWriter, "write_data", fail)
    with pytest.raises(OSError, match=r"step-2.ckpt could not be written.*rank 0: OSError: .*No space left on device"):
        run.save(tmp_path / "step-2.ckpt", model, [optimizer], rest(2), background=background)
        run.settle()
    assert names(tmp_path) == ["step-1.ckpt"]


def test_an_error_of_the_background_surfaces_between_two_batches(saves, trained, tmp_path, rest, held, monkeypatch):
    run, (model, optimizer) = saves(), trained()
    monkeypatch.setattr(CheckpointWriter, "finish", lambda *_, **__: 1 / 0)
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(1), background=True)
    run.poll()  # nothing yet
    held.set()
    wait([run._newest.under_way], timeout=20)
    with pytest.raises(OSError, match=r"step-1.ckpt could not be written.*ZeroDivisionError"):
        run.poll()
    assert names(tmp_path) == []


def test_after_a_failure_of_training_nothing_is_removed(saves, trained, tmp_path, rest):
    run, (model, optimizer) = saves(), trained()
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(1), background=False)
    run.abandon()
    run.remove(tmp_path / "step-1.ckpt")
    assert names(tmp_path) == ["step-1.ckpt"]


def test_a_folder_that_cannot_be_made_is_named(saves, trained, tmp_path, rest):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/step-1.ckpt cannot be written: .*Not a directory"):
        saves().save(tmp_path / "file" / "step-1.ckpt", trained()[0], [], rest(), background=False)


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Marker:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


DAMAGE = {
    "missing": (lambda at: (at / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "truncated": (
        lambda at: (at / "__0_0.distcp").write_bytes((at / "__0_0.distcp").read_bytes()[:-1]),
        r"__0_0.distcp has \d+ bytes, \d+ were written",
    ),
    "flipped": (lambda at: flip_byte(at / "__0_0.distcp"), "__0_0.distcp is damaged: its checksum is"),
    "flipped metadata": (lambda at: flip_byte(at / ".metadata"), ".metadata is damaged: its checksum is"),
    "flipped rest": (lambda at: flip_byte(at / "meta.pt"), "meta.pt is damaged: its checksum is"),
    "no manifest": (lambda at: (at / "manifest.json").unlink(), "has no manifest.json: it was not written to its end"),
    "cut manifest": (lambda at: (at / "manifest.json").write_text('{"format": 1'), "manifest.json is damaged"),
    "gone": (lambda at: at.rename(at.with_name("elsewhere")), "is no directory of a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_the_file_before_anything_changes(damage, saved, saves, trained):
    target, *_ = saved
    do, complaint = DAMAGE[damage]
    do(target)
    other = trained(2)
    with pytest.raises(ValueError, match=rf"cannot go on from .*step-7.ckpt: .*{complaint}"):
        saves().load(target, other[0], [other[1]])
    assert same(other, trained(2))


def test_a_checkpoint_of_a_later_version_says_which_has_written_it(saved, saves, trained):
    target, model, optimizer = saved
    manifest = json.loads((target / "manifest.json").read_text())
    manifest |= {"format": 9, "versions": {"mindvl": "7.5.0"}, "files": [], "new": 1}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"format that mindvl .* cannot read; mindvl 7.5.0 has written it"):
        saves().load(target, model, [optimizer])


def test_a_checkpoint_of_another_model_names_the_shapes(saved, saves, trained):
    other, optimizer = trained(2, width=6)
    with pytest.raises(
        ValueError, match=r"another model: model.0.bias has shape \(5,\), the configured one \(6,\); so have 2 other"
    ):
        saves().load(saved[0], other, [optimizer])


def test_a_checkpoint_of_other_names_is_refused_either_way(saved, saves, trained):
    larger, _ = trained(2)
    larger.model.register_buffer("new", torch.zeros(1))
    with pytest.raises(ValueError, match=r"another model: it lacks model.new"):
        saves().load(saved[0], larger, [])
    smaller, _ = trained(2)
    del smaller.model.count
    with pytest.raises(ValueError, match=r"another model: the configured one lacks model.count"):
        saves().load(saved[0], smaller, [])


def test_an_optimizer_of_other_parameters_is_refused(saved, saves, trained):
    model, _ = trained(2)
    model.model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.model[1].parameters())
    with pytest.raises(ValueError, match=r"optimizer is another one, or has trained other .*: this run's lacks"):
        saves().load(saved[0], model, [optimizer])


@pytest.mark.parametrize("file", [".metadata", "meta.pt"])
def test_no_code_in_a_checkpoint_is_run(file, saved, saves, trained, tmp_path):
    target, *_ = saved
    if file == ".metadata":
        (target / file).write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    else:
        torch.save({"global_step": Marker(tmp_path / "ran")}, target / file)
    (target / "manifest.json").write_text(
        json.dumps({**json.loads((target / "manifest.json").read_text()), "files": {}})
    )
    model, optimizer = trained(2)
    with pytest.raises(ValueError, match=r"cannot go on from"):
        saves().load(target, model, [optimizer])
    assert not (tmp_path / "ran").exists()


def test_a_flip_goes_unseen_only_where_checksums_are_not_compared(saved, saves, trained):
    target, *_ = saved
    flip_byte(target / "__0_0.distcp")
    model, optimizer = trained(2)
    with pytest.raises(ValueError, match="checksum"):
        saves().load(target, model, [optimizer])
    assert saves(verify=False).load(target, model, [optimizer])["global_step"] == 7


def test_a_resumed_model_checkpoint_knows_its_pointer(saves, trained, tmp_path, rest):
    """The first checkpoint of a run is written before last.ckpt exists; without a word Lightning would make last-v1."""
    run, (model, optimizer) = saves(), trained()
    state = {"ModelCheckpoint{}": {"last_model_path": "", "dirpath": str(tmp_path)}, "Other": {"a": 1}}
    run.save(tmp_path / "step-1.ckpt", model, [optimizer], rest(callbacks=state), background=False)
    assert run.load(tmp_path / "step-1.ckpt", model, [optimizer])["callbacks"] == state
    run.save(tmp_path / "last.ckpt", model, [optimizer], rest(), background=False)
    found = run.load(tmp_path / "last.ckpt", model, [optimizer])["callbacks"]
    assert found["ModelCheckpoint{}"]["last_model_path"] == str(tmp_path / "last.ckpt")


def test_averaging_opens_it_and_knows_its_step(saved):
    target, model, _ = saved
    opened = open_checkpoint(target, prefix="model.")
    assert opened.facts["step"] == 7
    assert set(opened.tensors) == {"0.weight", "0.bias", "1.weight", "1.bias", "count"}
    assert opened.tensors["0.weight"].shape == tuple(model.model[0].weight.shape)
