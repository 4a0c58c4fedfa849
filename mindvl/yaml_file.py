"""A YAML file of the user's, read strictly: what is wrong with it is one line, and no key stands twice in a mapping.

Of `{captions: a.tar, captions: b.tar}` YAML keeps the second and says nothing; a mixture would lack a source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_yaml(path: Path, what: str = "config") -> dict[str, Any]:
    """Its keys and values, none for an empty file; `what` the file is opens the error.

    Raises ValueError with the file, and the line where one is to blame, when it is not there, no text, no YAML, holds a
    key twice, or no keys at all.
    """
    import yaml

    if not path.is_file():
        raise ValueError(f"{what} {path} is not a file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None)}" if mark else error
        raise ValueError(f"{what} {path} is not YAML: {where}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8: {error}") from error
    except ValueError as error:  # a key that is there twice
        raise ValueError(f"{what} {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{what} {path} holds a {type(content).__name__}, not keys and values")
    return content


def _strict_loader() -> type:
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise ValueError(f"line {node.start_mark.line + 1}: the key {twice[0]!r} is there twice")
            return super().construct_mapping(node, deep)

    return StrictLoader
