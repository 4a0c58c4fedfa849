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
      - {name: soup, average: [short, long], greedy: true}
    report: {...}                                    # a page on one model, or
    study: {...}                                     # a table of many (mindvl/recipe/study.py)
    variants:
      larger: {out: runs/larger, stages: {warmup: {steps: 900}}}    # `--variant larger`

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
    greedy: bool = False
    """Of an average: a greedy soup, by the study's score on its selection split."""
    mixture: str | None = None
    sequence_length: int | None = None
    steps: int | None = None
    start_from: str | None = None
    accumulate: int = 1
    seed: int | None = None
    """The recipe's by default."""
    pixels: list[int] | None = None
    """[min_pixels, max_pixels] of this fit's pictures; the model's by default."""
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
class Study:
    """Which models are compared, on which families of questions, at which pixel budgets."""

    rows: list[str]
    """Stages; an average is compared with those of its members that are rows too, which are all."""
    families: dict[str, list[str]]
    """Name of a group -> its sources. Each group has a table of its own."""
    budgets: list[list[int]]
    """[min_pixels, max_pixels]; the first is the default, all are tried for each family."""
    selection_questions: int = 60
    """Questions per family on the validation split, for resolutions and greedy soups."""
    questions: int = 150
    """Questions per family on the test split, of which all figures are."""
    max_new_tokens: int = 48


@dataclass(frozen=True)
class Recipe:
    """The whole file; see the head of this module."""

    out: str
    model: dict[str, Any]
    data: str
    mixtures: dict[str, dict[str, float]]
    stages: list[Stage]
    report: Report | None = None
    study: Study | None = None
    tokenizer: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    train_samples_ratio: float = 1.0
    """Times as many training samples of each source as the data config says; the other splits stay."""
    data_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `PackedShards` that all stages share."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's Trainer that all stages share."""

    def mixture_of(self, stage: Stage) -> dict[str, float]:
        """Sources of a fit and their passes per round."""
        return self.mixtures[stage.mixture or ""]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def asked_report(self) -> Report:
        """The report, of a recipe that has one."""
        if self.report is None:
            raise ValueError("the recipe has no `report`")
        return self.report

    def asked_study(self) -> Study:
        """The study, of a recipe that has one."""
        if self.study is None:
            raise ValueError("the recipe has no `study`")
        return self.study


def load_recipe(path: Path, *, variant: str | None = None) -> Recipe:
    """Read and check a recipe, or one of its variants. Raises ValueError that names the file and the wrong key."""
    import yaml

    from mindvl.recipe.checks import check_recipe

    if not path.is_file():
        raise ValueError(f"recipe {path} is not a file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {error}") from error
    try:
        recipe = _build(Recipe, with_variant(content, variant), "")
        check_recipe(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def fingerprint(*settings: Any) -> str:
    """Short hash of settings, to know later whether a finished stage is still the one that is asked for."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def with_variant(content: Any, variant: str | None) -> Any:
    """A recipe's content with the changes of a variant: mappings merge, all else is replaced, stages go by name."""
    if not isinstance(content, dict):
        return content
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
