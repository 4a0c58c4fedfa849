"""Names that a misspelt one may have meant: `wieght` in a `mindvl.data.mixture.Source` is `weight`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any


def did_you_mean(name: str | None) -> str:
    """`; did you mean NAME?`, or nothing."""
    return f"; did you mean {name}?" if name else ""


def near_key(key: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest; of a dotted key that is near to none, the one whose first part is."""
    names = sorted(set(known))
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    if near:
        return near[0]
    top, dot, rest = key.partition(".")
    near = difflib.get_close_matches(top, sorted({name.partition(".")[0] for name in names}), n=1) if dot else []
    return f"{near[0]}.{rest}" if near and near[0] != top else None


def arguments_of(class_path: str, key: str) -> tuple[str | None, list[str]]:
    """What `key` may have meant among the arguments of a class, and the names there are where it goes astray.

    `model.visoin.depth` of a phase is known as far as `model`, whose class has no `visoin`: it has a `vision`.
    """
    owner: Any = _imported(class_path)
    parts = key.split(".")
    while owner is not None:
        names = [name for name in inspect.signature(owner).parameters if name not in ("self", "args", "kwargs")]
        if parts[0] not in names:
            return near_key(parts[0], names), names
        owner = _class_of(owner, parts.pop(0)) if len(parts) > 1 else None
    return None, []


def subclass_names(message: str) -> Iterator[str]:
    """Names of all loaded classes that are one of the `Subtypes: [<class '...'>, ...]` that a message names."""
    subtypes = re.search(r"Subtypes: (.*)", message)
    for class_path in re.findall(r"[\w.]+\.\w+", subtypes[1] if subtypes else ""):
        base = _imported(class_path)
        yield from _names_below(base) if isinstance(base, type) else ()


def _names_below(base: type) -> Iterator[str]:
    below: list[type] = type.__subclasses__(base)
    for derived in below:
        yield derived.__name__
        yield from _names_below(derived)


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _class_of(owner: Any, argument: str) -> type | None:
    """The class that an argument of a class takes, where it takes one."""
    try:
        hint = typing.get_type_hints(owner.__init__).get(argument)
    except (NameError, AttributeError, TypeError):  # named for type checkers alone
        return None
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else (hint,)
    classes = [option for option in options if isinstance(option, type) and option.__module__ != "builtins"]
    return classes[0] if classes and classes[0] is not types.NoneType else None
