"""Config files of a command line, looked at before they are parsed: are they there, YAML, and meant for this verb?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mindvl.cli.known_names import did_you_mean, near_key
from mindvl.yaml_file import read_yaml


def read_configs(arguments: Sequence[str]) -> list[tuple[str, dict]]:
    """Names and contents of the files that `-c` and `--config` name, in their order; addresses are left to the parser.

    Raises ValueError for a file that is not there, is no YAML, holds a key twice or no keys, or is a recipe.
    """
    return [(name, _read(Path(name))) for name in _named(arguments) if "://" not in name and not name.startswith("{")]


def _named(arguments: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in ("-c", "--config"):
            continue
        if equals:
            yield value
        elif number + 1 < len(arguments):
            yield arguments[number + 1]


def _read(path: Path) -> dict:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a config file")
    if not path.is_file():
        beside = {other.stem: str(other) for other in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
        raise ValueError(f"there is no config {path}{did_you_mean(beside.get(near_key(path.stem, beside) or ''))}")
    content = read_yaml(path)
    if isinstance(content.get("stages"), list):
        raise ValueError(f"{path} is a recipe, a chain of runs: mindvl recipe {path}")
    return content
