"""What a benchmark and whoever runs it hand to each other: a question, a judgement, a summary.

A question that got no answer counts as wrong and is listed, and so is an answer that no rule can read. Nothing is
dropped, nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from mindvl.eval.bootstrap import Interval


@dataclass(frozen=True, eq=False)
class EvalQuestion:
    """One thing to ask.

    Args:
        key: unique within the benchmark.
        part: of which part of which data it is, for the score's label: "DocVQA_VAL".
        messages: a conversation of one turn in transformers' chat format, `{"type": "image"}` where pictures go.
        images: the pictures' files as they were stored, in the order of their marks.
        references: known answers; none where a split's answers are not public.
        options: texts by letter, where the answer is a choice.
        category: under which the benchmark reports it.
        group: questions with the same one are right together or not at all; "" stands alone.
        group_size: how many those are.
        details: what else the scoring needs, by name.
    """

    key: str
    part: str
    messages: list[dict[str, Any]]
    images: tuple[bytes, ...]
    references: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    category: str = ""
    group: str = ""
    group_size: int = 1
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What became of a question.

    `extracted` is what was read out of the answer. `score` is 0 to 1, or None when there was no answer, none that a
    rule can read, or nothing to judge it by; `reason` then says which.
    """

    key: str
    part: str
    extracted: str | None
    score: float | None
    reason: str = ""
    category: str = ""
    group: str = ""
    group_size: int = 1
    has_reference: bool = True


@dataclass(frozen=True)
class Summary:
    """A benchmark's score with what it is of.

    Args:
        score: 0 to 100; None where answers are kept on a server.
        num_scored: what the score is a mean of: questions, pairs or rotated groups.
        num_questions: questions asked.
        parts: labels of the data, "DocVQA_VAL"; a local score of DocVQA is one of its validation split.
        by_category: the same score of each category.
        unjudged: (key, reason) of all questions without a judgement; they count as wrong.
        interval: of the score, over other questions of the kind.
        details: further numbers that the field quotes, such as MME's sums.
    """

    benchmark: str
    compat: str
    score: float | None
    num_scored: int
    num_questions: int
    parts: tuple[str, ...]
    by_category: dict[str, float]
    unjudged: tuple[tuple[str, str], ...]
    interval: Interval | None
    details: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Benchmark(Protocol):
    """What a runner needs to know of a benchmark."""

    name: ClassVar[str]
    max_new_tokens: ClassVar[int]
    """Length of an answer: lmms-eval's cap where it sets one. A model that reasons first needs more."""

    @property
    def compat(self) -> str:
        """Whose prompts and rules: "lmms-eval" or "vlmevalkit"."""

    def questions(self, path: Path, limit: int | None = None) -> Iterator[EvalQuestion]:
        """Questions of a file or folder, of which every row is checked before the first one comes.

        `limit` counts groups where questions belong together, each of which comes whole.
        """

    def judge(self, question: EvalQuestion, raw_prediction: str | None, failure: str = "") -> Judgement:
        """Reads and scores an answer; None for a question that failed, with `failure` saying why."""

    def summarise(self, judgements: Iterable[Judgement]) -> Summary:
        """The score of all judgements, in whatever order they come."""
