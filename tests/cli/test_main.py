import subprocess
import sys

import pytest

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
