"""A chain of phases as one file: what runs, on which data, starting from what.

    out: runs/quickstart
    model: {vision: {...}, language: {...}}          # sizes, shared by all stages
    tokenizer: {words: what is the ...}
    data: configs/quickstart/data.yaml               # drawn into OUT/data
    mixtures:
      pictures: {ocr_line: 1.0, chart_bar: 0.5}      # source -> passes per round
    stages:
      - {name: warmup, phase: mindvl.phases.WarmUp, mixture: pictures, sequence_length: 2048, steps: 100}
      - {name: short, phase: mindvl.phases.Multitask, start_from: warmup, ...}
      - {name: long, phase: mindvl.phases.Multitask, start_from: warmup, ...}
      - {name: mean, average: [short, long]}
    report: {...}

A stage is a fit or an average. Every stage has a folder OUT/NAME with `model/` when it is done.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One link of the chain: a fit (`phase`, `mixture`, `sequence_length`, `steps`) or an average of earlier stages."""

    name: str
    phase: str | None = None
    average: list[str] | None = None
    mixture: str | None = None
    sequence_length: int | None = None
    steps: int | None = None
    start_from: str | None = None
    accumulate: int = 1
    rates: dict[str, Any] = field(default_factory=dict)
    phase_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What is scored in the end, and at which pixel budgets the model is tried."""

    final: str
    singles: dict[str, str]
    """Name in the report (the sequence length) -> stage."""
    average: str
    budgets: list[list[int]]
    """[min_pixels, max_pixels]; the first is the default."""
    questions: int = 150
    """Questions per source on the test split."""
    selection_questions: int = 40
    """Questions per source on the validation split, for picking a resolution."""
    singles_questions: int = 100
    max_new_tokens: int = 48


@dataclass(frozen=True)
class Recipe:
    """The whole file; see the head of this module."""

    out: str
    model: dict[str, Any]
    data: str
    mixtures: dict[str, dict[str, float]]
    stages: list[Stage]
    report: Report
    tokenizer: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    data_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `PackedShards` that all stages share."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's Trainer that all stages share."""

    def mixture_of(self, stage: Stage) -> dict[str, float]:
        """Sources of a fit and their passes per round."""
        return self.mixtures[stage.mixture or ""]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises ValueError that names the file and the key that is wrong."""
    import yaml

    if not path.is_file():
        raise ValueError(f"recipe {path} is not a file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {error}") from error
    try:
        recipe = _build(Recipe, content, "")
        _check(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def fingerprint(*settings: Any) -> str:
    """Short hash of settings, to know later whether a finished stage is still the one that is asked for."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _build(kind: type, content: Any, where: str) -> Any:
    """A dataclass from a mapping; unknown, missing and badly nested keys are refused by name."""
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the file'} holds a {type(content).__name__}, not keys and values")
    hints = typing.get_type_hints(kind)
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
        hint = hints[key]
        (inner,) = typing.get_args(hint)[:1] or (None,)
        if isinstance(hint, type) and is_dataclass(hint):
            value = _build(hint, value, f"{where}{key}.")
        elif typing.get_origin(hint) is list and isinstance(inner, type) and is_dataclass(inner):
            value = [_build(inner, entry, f"{where}{key}[{number}].") for number, entry in enumerate(value)]
        values[key] = value
    return kind(**values)


def _check(recipe: Recipe) -> None:
    """Each stage names earlier stages and known mixtures."""
    done: list[str] = []
    for stage in recipe.stages:
        where = f"stage {stage.name}"
        if stage.name in done:
            raise ValueError(f"{where} is there twice")
        if (stage.phase is None) == (stage.average is None):
            raise ValueError(f"{where} needs either `phase` or `average`")
        for name in [*(stage.average or []), *([stage.start_from] if stage.start_from else [])]:
            if name not in done:
                raise ValueError(f"{where} builds on {name}, which is no earlier stage; earlier are {done}")
        if stage.phase is not None:
            for key in ("mixture", "sequence_length", "steps"):
                if getattr(stage, key) is None:
                    raise ValueError(f"{where} lacks {key}")
            if stage.mixture not in recipe.mixtures:
                raise ValueError(f"{where} names mixture {stage.mixture}; known are {', '.join(recipe.mixtures)}")
        done.append(stage.name)
    for name in (recipe.report.final, recipe.report.average, *recipe.report.singles.values()):
        if name not in done:
            raise ValueError(f"report names stage {name}; the recipe has {', '.join(done)}")
    if not recipe.report.budgets:
        raise ValueError("report.budgets is empty; it needs at least the default [min_pixels, max_pixels]")
    for low, high in recipe.report.budgets:
        if low > high:
            raise ValueError(f"report.budgets has min_pixels {low}, more than its max_pixels {high}")
