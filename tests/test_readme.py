import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mindvl.cli.main import LIGHTNING_VERBS, VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def shell_lines():
    """Command lines of the shell fences, continued ones joined, without prompt, comment, pipe or redirection."""
    for fence in FENCES:
        for line in fence.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                ends = [number for number, word in enumerate(words) if word in (">", ">>", "<", "2>", "&")]
                if words := words[: min(ends, default=len(words))]:
                    yield words


COMMANDS = [words for words in shell_lines() if words[0] == "mindvl"]
TARGETS = [words[1] for words in shell_lines() if words[0] == "make" and len(words) > 1]


def test_the_readme_tells_how_to_train_and_how_to_test():
    assert "make quickstart" in README
    assert "make test" in README


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_mindvl_command_of_the_readme_names_a_verb_and_arguments_that_exist(words):
    verb, arguments = words[1], words[2:]
    assert verb in {*LIGHTNING_VERBS, *VERBS, "--help", "--version"}
    if verb in VERBS:
        module = importlib.import_module(VERBS[verb][0])
        parser = argparse.ArgumentParser(prog=f"mindvl {verb}")
        module.add_arguments(parser)
        try:
            parser.parse_args(arguments)
        except SystemExit as leaving:
            assert not leaving.code, f"{' '.join(words)} is not understood"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_config_that_the_readme_names_in_a_command_exists(words):
    for word in words:
        path = word.split("=", 1)[-1]
        if path.startswith("configs/"):
            assert (ROOT / path).is_file(), f"{path} does not exist"


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_a_make_target_of_the_readme_exists(target):
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
