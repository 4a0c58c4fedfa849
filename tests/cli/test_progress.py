import os
import re
import sys

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from mindvl.cli.progress import StepLines, StepProgressBar, progress_of_steps

LINE = re.compile(
    r"step (\d+)/40  loss \d+\.\d{3}  tokens/s \d+  MFU \d+\.\d%  fill \d+\.\d%  left (\d:\d\d:\d\d)", re.ASCII
)

LOGS = {"logger": False, "accumulate_grad_batches": 2, "log_every_n_steps": 4}


def test_a_redirected_run_says_a_line_of_numbers_every_time_it_logs_and_draws_no_bar(trained):
    lines = [line for line in trained.output.splitlines() if line.startswith("step ")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert [int(line[1]) for line in found] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert found[-1][2] == "0:00:00"
    assert "━" not in trained.output


def test_a_terminal_gets_the_bar(monkeypatch):
    leader, follower = os.openpty()
    try:
        with os.fdopen(follower, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            assert type(progress_of_steps()) is StepProgressBar
    finally:
        os.close(leader)


def test_the_bar_counts_optimizer_steps_of_the_whole_run_also_after_a_resume(go_on, monkeypatch):
    bars = []

    def drawn():
        bars.append(StepProgressBar())
        return bars[-1]

    monkeypatch.setattr("mindvl.cli.lightning_cli.progress_of_steps", drawn)
    go_on(4, **LOGS)
    assert "continuing from" in go_on(6, **LOGS).out
    assert [(bar.train_progress_bar.completed, bar.train_progress_bar.total) for bar in bars] == [(4, 4), (6, 6)]


def test_lines_count_optimizer_steps_of_the_whole_run_and_the_last_is_among_them(go_on):
    assert re.findall(r"^step (\d+/\d+)", go_on(4, **LOGS).out, re.M) == ["4/4"]
    assert re.findall(r"^step (\d+/\d+)", go_on(10, **LOGS).out, re.M) == ["8/10", "10/10"]


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        self.log("train/loss", loss := (self.weight * batch).sum())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize(("first_rank", "lines"), [(True, ["step 2/3", "step 3/3"]), (False, [])])
def test_only_the_first_rank_says_lines(first_rank, lines, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(L.Trainer, "is_global_zero", first_rank)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        max_epochs=-1,
        log_every_n_steps=2,
        callbacks=[StepLines()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Line(), DataLoader(torch.ones(9, 1)))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split("  ")[0] for line in said] == lines
