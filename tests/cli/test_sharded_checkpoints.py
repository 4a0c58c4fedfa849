"""`mindvl fit` with strategy mindvl: checkpoints are directories, and the same command goes on from the newest."""

import shutil
import subprocess

import pytest
import yaml

from mindvl.data.run_record import load_record
from mindvl.model.mindvl import MindVL
from mindvl.parallel.checkpoint.manifest import read_manifest

STRATEGY = {"class_path": "mindvl.parallel.MindVLStrategy", "init_args": {"checkpoints": {"asynchronous": True}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_config, command, environment):
    """Four steps, then two more; what was printed by each."""
    folder = tmp_path_factory.mktemp("sharded")
    config = tiny_config(folder / "run")
    saver = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {
            "dirpath": str(folder / "run" / "checkpoints"),
            "filename": "step-{step}",
            "auto_insert_metric_name": False,
            "save_last": True,
            "every_n_train_steps": 2,
        },
    }
    config["trainer"] |= {"strategy": STRATEGY, "devices": 1, "max_steps": 4, "callbacks": [saver], "logger": False}
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    said = []
    for steps in (4, 6):
        arguments = [*command, "fit", "-c", folder / "fit.yaml", f"--trainer.max_steps={steps}"]
        done = subprocess.run(arguments, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
        if steps == 4:
            shutil.copytree(folder / "run" / "checkpoints", folder / "after four", symlinks=True)
    return folder, said


def test_last_leads_to_the_newest_and_the_older_one_is_gone(runs):
    folder, _ = runs
    for where, step in ((folder / "after four", 4), (folder / "run" / "checkpoints", 6)):
        # Lightning keeps what a run has gone on from, but knows it as last.ckpt.
        assert sorted(path.name for path in where.iterdir()) == ["last.ckpt", f"step-{step}.ckpt"]
        assert read_manifest(where / "last.ckpt").step == step


def test_the_same_command_goes_on_from_it(runs):
    folder, (first, second) = runs
    assert "continuing from" not in first
    assert f"continuing from {folder / 'run' / 'checkpoints' / 'last.ckpt'}" in second


def test_another_strategy_says_how_to_go_on(runs, mindvl):
    folder, _ = runs
    called = mindvl("fit", "-c", folder / "fit.yaml", "--trainer.strategy=auto")
    assert called.status != 0
    assert "last.ckpt is a directory that strategy mindvl has written" in called.complaint
    assert "--trainer.strategy=mindvl" in called.complaint


def test_what_a_run_has_seen_is_read_from_its_directory(runs):
    folder, _ = runs
    early, late = (load_record(path) for path in (folder / "after four" / "last.ckpt", folder / "run"))
    assert 0 < early["next_pack"] < late["next_pack"] and early["consumed"] != late["consumed"]


def test_their_average_is_a_model_as_the_run_has_saved_one(runs, mindvl, tmp_path):
    folder, _ = runs
    averaged = mindvl(
        "average",
        folder / "run" / "checkpoints" / "last.ckpt",
        folder / "after four" / "last.ckpt",
        "-o",
        tmp_path / "mean",
    )
    assert (averaged.status, averaged.err) == (0, "")
    saved = MindVL.from_pretrained(folder / "run" / "model")
    mean = MindVL.from_pretrained(tmp_path / "mean")
    assert mean.config.to_diff_dict() == saved.config.to_diff_dict()
    assert mean.state_dict().keys() == saved.state_dict().keys()
