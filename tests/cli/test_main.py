import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mindvl.cli.main
from mindvl.cli.main import LIGHTNING_VERBS, VERBS, main

LOOK_AROUND = """
import sys
from mindvl.cli.main import main
assert main(["--help"]) == 0
try:
    main(["data", "render", "--help"])
except SystemExit:
    pass
print("imported:", *({"torch", "lightning", "transformers"} & sys.modules.keys()))
"""


def test_without_arguments_every_verb_is_listed(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in (*LIGHTNING_VERBS, *VERBS))


def test_looking_around_imports_neither_torch_nor_lightning():
    done = subprocess.run([sys.executable, "-c", LOOK_AROUND], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mindvl {mindvl.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: mindvl {verb}")


def test_a_misspelt_verb_is_refused_with_the_near_one(capsys):
    assert main(["avarage"]) == 2
    assert capsys.readouterr().err.startswith("mindvl: unknown verb 'avarage'; did you mean average?\n")


def test_an_error_shows_where_it_comes_from_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("MINDVL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a file"):
        main(["recipe", str(tmp_path / "none.yaml")])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("arguments", [["--trainer.accelerator=cuda"], ["--trainer.accelerator=gpu"]])
def test_a_device_that_lightning_cannot_find_is_one_sentence(arguments, mindvl, tiny_config, tmp_path):
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(tiny_config(tmp_path / "run")))
    called = mindvl("fit", "-c", tmp_path / "fit.yaml", *arguments)
    assert called.status == 2
    assert called.complaint.startswith("mindvl fit: ") and "Traceback" not in called.err


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("mindvl.cli.data.run", lambda args: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        main(["data", "steps"])


@pytest.mark.parametrize("arguments", [[], ["ops"], ["data", "--help"]])
def test_a_reader_that_leaves_ends_the_command_quietly(arguments, command, environment):
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*command, *arguments], env=buffered, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_broken_pipe_that_is_not_stdout_keeps_its_traceback(monkeypatch):
    def torn(args):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("mindvl.cli.data.run", torn)
    monkeypatch.setattr("sys.argv", ["mindvl", "data", "steps"])
    with Path(os.devnull).open("w") as nowhere, pytest.raises(BrokenPipeError, match="of a worker"):
        monkeypatch.setattr("sys.stdout", nowhere)
        mindvl.cli.main._until_nobody_reads()


def test_an_error_of_the_system_is_its_first_line(monkeypatch, capsys):
    def unreachable(args):
        raise OSError("no-such/model is not a local folder\nIf this is a private repository, log in")

    monkeypatch.delenv("MINDVL_TRACEBACK", raising=False)
    monkeypatch.setattr("mindvl.cli.data.run", unreachable)
    assert main(["data", "steps"]) == 2
    assert capsys.readouterr().err == "mindvl data: no-such/model is not a local folder\n"
    monkeypatch.setenv("MINDVL_TRACEBACK", "1")
    with pytest.raises(OSError, match="no-such/model"):
        main(["data", "steps"])


@pytest.mark.parametrize(
    "verbs",
    [
        *(("data", verb) for verb in ("render", "import", "run", "steps", "index", "consumed", "tokenizer")),
        *(("routing", verb) for verb in ("record", "report", "compare", "ablate", "models")),
    ],
    ids=" ".join,
)
def test_each_verb_within_a_verb_says_what_it_is_for(verbs, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*verbs, "--help"])
    _, purpose, *_ = capsys.readouterr().out.split("\n\n")
    assert len(purpose.split()) >= 5 and "arguments:" not in purpose
