"""A data recipe's file becomes a checked recipe; whatever is wrong in it is named by its key."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mindvl.data.steps.recipe import SPLITS, DataRecipe, DataSource, StepCall
from mindvl.data.steps.sources import check_sources
from mindvl.data.steps.table import check_step, nearest
from mindvl.yaml_file import read_yaml

_KINDS = ("render", "import", "shards")


@dataclass(frozen=True)
class _RecipeFile:
    """The keys of a recipe's file."""

    out: str
    sources: dict[str, Any]
    steps: list[Any] = field(default_factory=list)
    seed: int = 0
    image_format: str = "png"
    samples_per_shard: int = 1000
    style: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _SourceEntry:
    """The keys of a source beside render, import or shards."""

    category: str = ""
    split: str = "train"
    optional: bool = False
    limit: int = 0
    steps: list[Any] = field(default_factory=list)


def load_data_recipe(path: Path, changes: Mapping[str, str] | None = None, *, samples: int | None = None) -> DataRecipe:
    """Read and check a recipe; `changes` replaces top-level keys, with values in YAML.

    Raises ValueError that names the file and the key that is wrong.
    """
    import yaml

    content = read_yaml(path, "recipe")
    try:
        changed = {key: yaml.safe_load(value) for key, value in (changes or {}).items()}
    except yaml.YAMLError as error:
        raise ValueError(f"a changed value is not YAML: {error}") from error
    try:
        return check_data_recipe({**content, **changed}, samples=samples)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_data_recipe(content: Mapping[str, Any], *, samples: int | None = None) -> DataRecipe:
    """The recipe as typed objects. Raises ValueError that names the key and what is allowed."""
    top = _fill(_RecipeFile, content, "")
    if top.samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {top.samples_per_shard}; it must be at least 1")
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; it must be at least 1")
    if not top.sources:
        raise ValueError("sources is empty; a recipe needs at least one")
    sources = tuple(_check_source(name, entry) for name, entry in top.sources.items())
    steps = _check_steps(top.steps, "steps")
    recipe = DataRecipe(
        out=Path(top.out),
        seed=top.seed,
        image_format=top.image_format,
        samples_per_shard=top.samples_per_shard,
        style=top.style,
        sources=sources,
        steps=steps,
        samples=samples,
    )
    check_sources(recipe)
    return recipe


def _check_source(name: Any, entry: Any) -> DataSource:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"source name {name!r} becomes a file name: use letters, digits and _")
    where = f"sources.{name}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} holds a {type(entry).__name__}, not keys and values")
    kinds = [kind for kind in _KINDS if kind in entry]
    known = {**dict.fromkeys(_KINDS), **{item.name: None for item in fields(_SourceEntry)}}
    for key in entry:
        if key not in known:
            raise ValueError(f"unknown key {where}.{key}{nearest(key, known)}")
    if len(kinds) != 1:
        raise ValueError(f"{where} needs one of {', '.join(_KINDS)}; it has {' and '.join(kinds) or 'none'}")
    settings = entry[kinds[0]]
    if kinds[0] == "shards" and isinstance(settings, str):
        settings = {"path": settings}
    if not isinstance(settings, Mapping):
        raise ValueError(f"{where}.{kinds[0]} is {settings!r}; it must hold keys and values")
    rest = _fill(_SourceEntry, {key: value for key, value in entry.items() if key not in _KINDS}, f"{where}.")
    if rest.split not in SPLITS:
        raise ValueError(f"{where}.split is {rest.split!r}; it must be one of {', '.join(SPLITS)}")
    if "limit" in entry and rest.limit < 1:
        raise ValueError(f"{where}.limit is {rest.limit}; it must be at least 1")
    if kinds[0] == "render" and ({"split", "optional"} & set(entry)):
        raise ValueError(f"{where} is rendered: it has train, validation and test under `render`, and is never absent")
    return DataSource(
        name=name,
        kind=kinds[0],
        settings=dict(settings),
        category=rest.category or name,
        split=rest.split,
        optional=rest.optional,
        limit=rest.limit or None,
        steps=_check_steps(rest.steps, f"{where}.steps"),
    )


def _check_steps(entries: list[Any], where: str) -> tuple[StepCall, ...]:
    calls = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(f"{where}[{number}] is {entry!r}; it must be one step, such as `resolution: {{}}`")
        ((name, arguments),) = entry.items()
        try:
            calls.append(StepCall(name, check_step(name, arguments)))
        except ValueError as error:
            raise ValueError(f"{where}[{number}]: {error}") from error
    return tuple(calls)


def _fill(kind: type, content: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping; unknown and missing keys and wrong types are refused by name."""
    hints = {key: typing.get_origin(hint) or hint for key, hint in typing.get_type_hints(kind).items()}
    for key, value in content.items():
        if key not in hints:
            raise ValueError(f"unknown key {where}{key}{nearest(key, hints)}")
        if not isinstance(value, hints[key]) or (isinstance(value, bool) and hints[key] is not bool):
            raise ValueError(f"{where}{key} is {value!r}; it must be of type {hints[key].__name__}")
    for item in fields(kind):
        if item.name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"key {where}{item.name} is missing")
    return kind(**content)
