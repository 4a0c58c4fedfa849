"""A tiny run of `mindvl fit`, made once in a process of its own, and the door `mindvl` called in this one."""

from __future__ import annotations

import copy
import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml

STEPS = 40


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its config file, and what it printed."""

    root: Path
    config: Path
    output: str

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def metrics(self) -> list[dict[str, float]]:
        with (self.root / "csv" / "metrics.csv").open(newline="") as file:
            return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Called:
    """What a call of `main` came to."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The last line of stderr."""
        return self.err.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of the runs in processes of their own: one thread, W&B without a key, the checkout's packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "PL_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}


@pytest.fixture(scope="session")
def command() -> list[str]:
    return [sys.executable, "-m", "mindvl.cli.main"]


@pytest.fixture(scope="session")
def tiny_config(corpus, make_spec) -> Callable[[Path], dict]:
    """The config of a run into a folder, as a mapping."""
    spec = {name: value for name, value in asdict(make_spec()).items() if value is not None}

    def sources(split: str, *names: str) -> dict:
        return {name: {"shards": str(corpus / split / f"{name}-*.tar")} for name in names}

    def make(root: Path) -> dict:
        phase = {"model": copy.deepcopy(spec), "rates": {"warmup_steps": 4}, "supervise": "answers"}
        data = {
            "train": sources("train", "ocr", "counting"),
            "validation": sources("validation", "ocr", "counting"),
            "test": sources("validation", "ocr", "counting"),
            "max_questions": 3,
            "sequence_length": 256,
            "workers": 0,
        }
        trainer = {
            "default_root_dir": str(root),
            "max_steps": STEPS,
            "val_check_interval": STEPS,
            "check_val_every_n_epoch": None,
            "precision": "32-true",
            "accelerator": "cpu",
            "log_every_n_steps": 5,
        }
        return {
            "seed_everything": 0,
            "model": {"class_path": "mindvl.phases.Multitask", "init_args": phase},
            "data": {"class_path": "mindvl.data.module.PackedShards", "init_args": data},
            "trainer": trainer,
        }

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config, command, environment) -> Run:
    """A run to its end, as a user starts it: `mindvl fit -c CONFIG` in a shell."""
    folder = tmp_path_factory.mktemp("trained")
    root, config = folder / "run", folder / "fit.yaml"
    config.write_text(yaml.safe_dump(tiny_config(root)))
    done = subprocess.run(
        [*command, "fit", "-c", config], env=environment, cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(root, config, done.stdout + done.stderr)


@pytest.fixture
def mindvl(capfd, monkeypatch) -> Callable[..., Called]:
    """The console script, without a process of its own."""
    from mindvl.cli.main import main

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own calls
    monkeypatch.delenv("MINDVL_TRACEBACK", raising=False)

    def call(*arguments: object) -> Called:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        written = capfd.readouterr()
        return Called(status, written.out, written.err)

    return call


@pytest.fixture
def go_on(trained, mindvl, tmp_path) -> Callable[..., Called]:
    """Fits of the tiny run into tmp_path/run, each up to a step and from the checkpoint of the one before it."""
    root = tmp_path / "run"
    checkpoints = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(root / "checkpoints"), "save_last": True, "every_n_train_steps": 2},
    }

    def fit(max_steps: int, *arguments: object, **trainer: object) -> Called:
        trainer |= {"default_root_dir": str(root), "callbacks": [checkpoints], "max_steps": max_steps}
        trainer |= {"limit_val_batches": 0}
        (tmp_path / "changes.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
        return mindvl("fit", "-c", trained.config, "-c", tmp_path / "changes.yaml", *arguments)

    return fit
