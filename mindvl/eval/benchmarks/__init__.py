"""The benchmarks by name: what is asked, how answers are read, what the score is.

    benchmark = load("docvqa", compat="vlmevalkit")
    judgements = []
    for question in benchmark.questions(Path("DocVQA_VAL.tsv")):
        answer = ...                                    # of question.messages and question.images; None if it failed
        judgements.append(benchmark.judge(question, answer))
    benchmark.summarise(judgements).score               # 0 to 100

The table is closed; the paper's six are MME, MMBench, OCRBench, DocVQA, ChartQA and InfoVQA.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mindvl.eval.benchmarks.protocol import Benchmark, EvalQuestion, Judgement, Summary

__all__ = ["PAPER_COLUMNS", "Benchmark", "EvalQuestion", "Judgement", "Summary", "load", "names", "overall"]

PAPER_COLUMNS = ("mme", "mmbench", "ocrbench", "docvqa", "chartqa", "infovqa")

_CLASSES = {
    "mme": "MME",
    "mmbench": "MMBench",
    "ocrbench": "OCRBench",
    "docvqa": "DocVQA",
    "chartqa": "ChartQA",
    "infovqa": "InfoVQA",
    "textvqa": "TextVQA",
    "ai2d": "AI2D",
    "mmmu": "MMMU",
    "mathvista": "MathVista",
}


def names() -> tuple[str, ...]:
    """Names of all benchmarks, the paper's six first."""
    return tuple(_CLASSES)


def load(name: str, **settings: Any) -> Benchmark:
    """A benchmark with its settings: `compat`, `split`, and its own. Raises ValueError for a name that is not known."""
    if name not in _CLASSES:
        raise ValueError(f"unknown benchmark {name!r}; known are {', '.join(_CLASSES)}")
    benchmark: Benchmark = getattr(import_module(f"{__name__}.{name}"), _CLASSES[name])(**settings)
    return benchmark


def overall(scores: Mapping[str, float]) -> float:
    """MindVL's last column: the plain mean of its six, 0 to 100. Raises ValueError when one of them is missing."""
    missing = [name for name in PAPER_COLUMNS if name not in scores]
    if missing:
        raise ValueError(f"{len(missing)} of {len(PAPER_COLUMNS)} columns are missing: {', '.join(missing)}")
    return sum(scores[name] for name in PAPER_COLUMNS) / len(PAPER_COLUMNS)
