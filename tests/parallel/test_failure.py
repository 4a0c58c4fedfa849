"""One rank fails or hangs: all end within seconds, its number is in every message, and nothing is saved."""

import json

import pytest
import torch

TIMEOUT_S = 4


@pytest.fixture
def run(tmp_path, specs, step_packs, run_script):
    def run(how: str):
        torch.save(specs["qwen3"], tmp_path / "qwen3.spec")
        torch.save(step_packs, tmp_path / "packs")
        done = run_script("failing_ranks.py", str(tmp_path), how, str(TIMEOUT_S))
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("result "))
        return json.loads(line.removeprefix("result ")), done.stderr

    return run


def test_all_ranks_end_when_one_fails_and_say_which(run):
    result, messages = run("fails")
    assert result["codes"] == [1, 1]
    assert result["seconds"] < 20
    assert "rank 0 ends: rank 1 failed: FloatingPointError: loss is nan in pack 2" in messages
    assert result["saved"] == []
    assert "on_exception.ckpt is not written: a rank has failed" in messages


def test_all_ranks_end_when_one_hangs_and_say_which(run):
    result, messages = run("hangs")
    assert result["codes"] == [1, 1]
    assert result["seconds"] < TIMEOUT_S + 25
    assert "rank 1 ends: rank 1 hangs: nothing for 4 s; it is between two steps" in messages
    assert result["saved"] == []
