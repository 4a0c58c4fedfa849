"""`mindvl fit` on two devices of one machine goes on from a run of one device, and from its own."""

import csv
import json
import shutil
import subprocess

import pytest

STEPS = (42, 44)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory, command, environment):
    """The folder of a run of 40 steps that two ranks have taken to step 42, then 44, and what each command printed."""
    root = tmp_path_factory.mktemp("two") / "run"
    shutil.copytree(trained.root, root)
    said = []
    for steps in STEPS:
        settings = {
            "default_root_dir": root,
            "devices": 2,
            "max_steps": steps,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
        }
        arguments = [f"--trainer.{key}={value}" for key, value in settings.items()]
        done = subprocess.run(
            [*command, "fit", "-c", trained.config, *arguments],
            env=environment, cwd=root.parent, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
    return root, said


def test_two_ranks_go_on_from_one_and_from_two_with_the_next_packs(runs):
    root, said = runs
    assert all(f"continuing from {root}/checkpoints/last.ckpt" in text for text in said)
    record = json.loads((root / "consumed.json").read_text())
    assert record["next_pack"] == 40 + 2 * 4 and record["closed"] == []


def test_the_rows_of_the_run_before_are_kept_by_the_first_rank(runs):
    root, _ = runs
    with (root / "csv" / "metrics.csv").open(newline="") as file:
        rows = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert rows == [4, 9, 14, 19, 24, 29, 34, 39, 40, 41, 42, 43]
