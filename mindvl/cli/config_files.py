"""Config files of a command line, looked at before they are parsed: are they there, YAML, and meant for this verb?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from mindvl.cli.known_names import did_you_mean, near_key


def read_configs(arguments: Sequence[str]) -> list[tuple[str, dict]]:
    """Names and contents of the files that `-c` and `--config` name, in their order; addresses are left to the parser.

    Raises ValueError for a file that is not there, is no YAML, holds no keys, or is a recipe.
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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {_where(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, where keys such as model, data and trainer belong")
    if isinstance(content.get("stages"), list):
        raise ValueError(f"{path} is a recipe, a chain of runs: mindvl recipe {path}")
    return content


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None)}"
