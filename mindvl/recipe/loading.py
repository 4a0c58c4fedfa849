"""A recipe's file becomes a checked recipe; whatever is wrong in it is named by its key."""

from __future__ import annotations

import difflib
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from mindvl.recipe.checks import check_recipe
from mindvl.recipe.recipe import Recipe
from mindvl.yaml_file import read_yaml


def load_recipe(path: Path, *, variant: str | None = None) -> Recipe:
    """Read and check a recipe, or one of its variants. Raises ValueError that names the file and the wrong key."""
    content = read_yaml(path, "recipe")
    try:
        recipe = _build(Recipe, with_variant(content, variant), "")
        check_recipe(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def with_variant(content: dict[str, Any], variant: str | None) -> dict[str, Any]:
    """A recipe's content with the changes of a variant: mappings merge, all else is replaced, stages go by name."""
    variants = content.get("variants", {})
    plain = {key: value for key, value in content.items() if key != "variants"}
    if variant is None:
        return plain
    if variant not in variants:
        raise ValueError(f"there is no variant {variant}; known are {', '.join(variants) or 'none'}")
    changes = dict(variants[variant])
    by_name = {stage["name"]: stage for stage in plain["stages"]}
    for name, change in changes.pop("stages", {}).items():
        if name not in by_name:
            raise ValueError(f"variants.{variant}.stages names {name}; the recipe has {', '.join(by_name)}")
        by_name[name] = _merged(by_name[name], change)
    return {**_merged(plain, changes), "stages": list(by_name.values())}


def _merged(old: dict, new: dict) -> dict:
    both = {key: _merged(old[key], new[key]) for key in new if isinstance(old.get(key), dict) and new[key]}
    return {**old, **new, **both}


def _build(kind: type, content: Any, where: str) -> Any:
    """A dataclass from a mapping; unknown, missing and badly nested keys are refused by name."""
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the file'} holds a {type(content).__name__}, not keys and values")
    hints: dict[str, Any] = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"unknown key {where}{key}{hint}")
    for name, item in known.items():
        if name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"key {where}{name} is missing")
    values = {}
    for key, value in content.items():
        wanted = hints[key]
        (inner,) = typing.get_args(wanted)[:1] or (None,)
        if is_dataclass(inner) and type(None) in typing.get_args(wanted):
            wanted = inner
        if isinstance(wanted, type) and is_dataclass(wanted):
            value = _build(wanted, value, f"{where}{key}.")
        elif typing.get_origin(wanted) is list and isinstance(inner, type) and is_dataclass(inner):
            value = [_build(inner, entry, f"{where}{key}[{number}].") for number, entry in enumerate(value)]
        values[key] = value
    return kind(**values)
