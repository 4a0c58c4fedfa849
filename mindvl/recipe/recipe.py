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

import hashlib
import json
from dataclasses import dataclass, field
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


def fingerprint(*settings: Any) -> str:
    """Short hash of settings, to know later whether a finished stage is still the one that is asked for."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
