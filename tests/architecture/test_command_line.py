"""The door: every verb explains itself, most of them at once, and a slip of the finger gets a suggestion."""

import subprocess
import sys

import pytest

from mindvl.cli.main import LIGHTNING_VERBS, VERBS, main

HEAVY = ("torch", "transformers", "lightning")
RUNNER = f"""
import sys
from mindvl.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("imported:", *(name for name in {HEAVY} if name in sys.modules))
sys.exit(status)
"""
DATA = ("render", "import", "run", "steps", "index", "consumed", "tokenizer")
ROUTING = ("record", "report", "compare", "ablate", "models")
LIGHT = [[], *([verb] for verb in VERBS), *(["data", verb] for verb in DATA), *(["routing", verb] for verb in ROUTING)]


@pytest.mark.parametrize("verb", LIGHT, ids=lambda verb: " ".join(["mindvl", *verb]))
def test_help_comes_without_torch_transformers_or_lightning(verb, repository):
    command = [sys.executable, "-c", RUNNER, *verb, "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: mindvl")
    assert done.stdout.splitlines()[-1].strip() == "imported:"


def test_help_of_fit_names_the_parts_of_a_config(repository):
    command = [sys.executable, "-m", "mindvl.cli.main", "fit", "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("--model", "--data", "--trainer.max_steps", "--ckpt_path"))


def test_the_overview_names_every_verb(capsys):
    assert main([]) == 0
    words = capsys.readouterr().out.split()
    assert {*LIGHTNING_VERBS, *VERBS} <= set(words)


@pytest.mark.parametrize(("typed", "meant"), [("fti", "fit"), ("recipes", "recipe"), ("validte", "validate")])
def test_an_unknown_verb_ends_with_status_2_and_a_suggestion(typed, meant, capsys):
    assert main([typed]) == 2
    assert f"unknown verb '{typed}'; did you mean {meant}?" in capsys.readouterr().err


def test_a_verb_like_no_other_gets_the_overview_and_no_suggestion(capsys):
    assert main(["xyzzy"]) == 2
    message = capsys.readouterr().err
    assert "did you mean" not in message and "usage: mindvl" in message
