import argparse
import subprocess
import sys

import pytest

from mindvl.data.steps.command import add_arguments, add_list_arguments, run, run_list
from mindvl.data.steps.table import STEPS

RECIPE = "sources: {a: {render: {family: stem, train: 9, test: 3}}}\nsteps: [resolution: {min_side_pixels: 28}]\n"


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"out: {tmp_path / 'unused'}\nstyle: {{cell_pixels: 28}}\n{RECIPE}")
    return path


def test_a_trial_of_a_recipe_goes_where_it_is_told(file, tmp_path, capsys):
    assert run(parsed(file, "--samples", 2, "--workers", 1, "--set", f"out={tmp_path / 'out'}", "--set", "seed=5")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "recipe.json", "report.json", "report.md", "test", "train",
    ]  # fmt: skip
    said = capsys.readouterr()
    assert "train       2 samples, 2 pictures" in said.out and "2 shards and report.md under" in said.err
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "0"), "--workers is 0"),
        (("--samples", "0"), "samples is 0"),
        (("--set", "out"), "--set out is not KEY=VALUE"),
        (("--set", "sed=3"), "unknown key sed; did you mean seed?"),
    ],
)
def test_human_errors_are_said_in_words(file, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(parsed(file, *arguments))


def test_the_list_of_steps_shows_their_arguments(capsys):
    parser = argparse.ArgumentParser()
    add_list_arguments(parser)
    assert run_list(parser.parse_args([])) == 0
    said = capsys.readouterr().out
    assert "resolution: {min_side_pixels: 28, max_pixels: 50000000}\n    Bounds on the shorter side" in said
    assert "(whole corpus, needs imagehash)" in said and said.count("\n") == 2 * len(STEPS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, argparse; from mindvl.data.steps.command import add_arguments, add_list_arguments;"
        "add_arguments(argparse.ArgumentParser()); add_list_arguments(argparse.ArgumentParser());"
        "assert not {'numpy', 'torch', 'PIL', 'ray'} & set(sys.modules);"
        "import mindvl.data.steps.run;"
        "assert not {'ray', 'imagehash', 'datasketch', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
