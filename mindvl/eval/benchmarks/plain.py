"""Benchmarks whose questions stand alone: each has a score, and the mean of these is the benchmark's.

A benchmark adds what is its own: how a row becomes a question, and how an answer is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise, zip_longest
from pathlib import Path
from typing import ClassVar

from mindvl.eval.benchmarks.protocol import EvalQuestion, Judgement, Summary
from mindvl.eval.bootstrap import Interval, bootstrap_interval
from mindvl.eval.metrics.compat import LMMS_EVAL, check_compat
from mindvl.eval.readers import Row, read_rows

UNANSWERED = "not answered"
UNREADABLE = "no rule reads the answer"
NO_REFERENCE = "the answers of this split are not public"


@dataclass(frozen=True, kw_only=True)
class PlainBenchmark:
    """Settings that all benchmarks share, and the way from rows to a summary.

    Args:
        compat: whose prompts and rules: "lmms-eval" or "vlmevalkit".
        split: of a parquet folder; the benchmark's usual one when not given.
    """

    name: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ()
    """Known splits, the usual one first."""
    max_new_tokens: ClassVar[int] = 128
    image_columns: ClassVar[tuple[str, ...]] = ("image",)

    compat: str = LMMS_EVAL
    split: str | None = None

    def __post_init__(self) -> None:
        check_compat(self.compat)
        if self.split is not None and self.split not in self.splits:
            raise ValueError(f"{self.name} has no split {self.split!r}; there are: {', '.join(self.splits)}")

    @property
    def wanted_split(self) -> str:
        """The split asked for, or the usual one."""
        return self.split or self.splits[0]

    @property
    def subfolder(self) -> str | None:
        """Where a repository of several data sets keeps this one."""
        return None

    def questions(self, path: Path, limit: int | None = None) -> Iterator[EvalQuestion]:
        """Questions in the order of the file; `limit` counts groups, each whole, taken from the categories in turn.

        The file is read to its end before the first question comes: nobody answers for hours before a bad row is met.

        Raises:
            ValueError: for a row that is no question of this benchmark, a key that comes twice, an incomplete group,
                or no questions.
        """
        chosen = spread(self._survey(path), limit)
        left = sum(chosen.values())
        for row in self._rows(path):
            question = self.question(row)
            if group_of(question) in chosen:
                yield question
                left -= 1
            if not left:
                return

    def _survey(self, path: Path) -> list[EvalQuestion]:
        """All questions, without their pictures, once they have been found to be in order."""
        found: list[EvalQuestion] = []
        seen: dict[str, int] = {}
        for row in self._rows(path):
            question = self.question(row)
            if question.key in seen:
                raise row.error("key", f"{question.key!r} is also that of row {seen[question.key]}")
            seen[question.key] = row.number
            found.append(replace(question, messages=[], images=()))
        if not found:
            raise ValueError(f"{path} holds no question of {self.name}")
        try:
            self.check_groups(found)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return found

    def _rows(self, path: Path) -> Iterator[Row]:
        rows = read_rows(path, split=self.wanted_split, subfolder=self.subfolder, image_columns=self.image_columns)
        return (row for row in rows if self.wants(row))

    def check_groups(self, questions: Sequence[EvalQuestion]) -> None:
        """Raises ValueError where questions that belong together are not all there; here each stands alone."""

    def wants(self, row: Row) -> bool:
        """Whether a row belongs to the split, where a file mixes several."""
        return True

    def question(self, row: Row) -> EvalQuestion:
        """What a row asks. Raises ValueError that names file, row and key."""
        raise NotImplementedError

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        """(what the answer says, its score from 0 to 1), or None when no rule can read it."""
        raise NotImplementedError

    def judge(self, question: EvalQuestion, raw_prediction: str | None, failure: str = "") -> Judgement:
        """Reads and scores an answer; None for a question that failed, with `failure` saying why."""
        extracted, score, reason = None, None, ""
        if raw_prediction is None:
            reason = f"{UNANSWERED}: {failure}" if failure else UNANSWERED
        elif not question.references:
            extracted, reason = raw_prediction, NO_REFERENCE
        elif (read := self.read(question, raw_prediction)) is None:
            reason = UNREADABLE
        else:
            extracted, score = read
        return Judgement(
            question.key,
            question.part,
            extracted,
            score,
            reason,
            question.category,
            question.group,
            question.group_size,
            bool(question.references),
        )

    def summarise(self, judgements: Iterable[Judgement]) -> Summary:
        """The mean score in percent, over all questions and over each category's.

        Raises:
            ValueError: without judgements, or when a key comes twice (a sampler that pads its last batch does that).
        """
        ordered = in_order(judgements)
        scores = [judgement.score or 0.0 for judgement in ordered]
        return self.summary(ordered, scores, [judgement.category for judgement in ordered])

    def summary(self, ordered: Sequence[Judgement], scores: Sequence[float], categories: Sequence[str]) -> Summary:
        """The summary of a mean over `scores`, which may be of groups of judgements."""
        known = all(judgement.has_reference for judgement in ordered)
        by_category = {
            name: _percent([score for score, its in zip(scores, categories, strict=True) if its == name])
            for name in sorted(set(categories) - {""})
        }
        return Summary(
            benchmark=self.name,
            compat=self.compat,
            score=_percent(scores) if known else None,
            num_scored=len(scores),
            num_questions=len(ordered),
            parts=tuple(sorted({judgement.part for judgement in ordered})),
            by_category=by_category if known else {},
            unjudged=tuple((one.key, one.reason) for one in ordered if one.score is None),
            interval=percent_interval(bootstrap_interval(scores)) if known else None,
        )


def group_of(question: EvalQuestion) -> str:
    """Name of the group, which a question that stands alone is by itself."""
    return question.group or question.key


def spread(questions: Sequence[EvalQuestion], limit: int | None) -> dict[str, int]:
    """Groups to ask with their number of questions: all, or `limit` of them, of each category in turn the next.

    A larger limit takes all that a smaller one does.
    """
    sizes = Counter(map(group_of, questions))
    category_of = {group_of(question): question.category for question in questions}
    by_category: dict[str, list[str]] = defaultdict(list)
    for group, category in category_of.items():
        by_category[category].append(group)
    in_turn = (group for round in zip_longest(*by_category.values()) for group in round if group is not None)
    return {group: sizes[group] for group in islice(in_turn, limit)}


def in_order(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Judgements by their keys. Raises ValueError for none, or one key twice."""
    ordered = sorted(judgements, key=lambda judgement: judgement.key)
    if not ordered:
        raise ValueError("there are 0 judgements to summarise")
    for one, next_one in pairwise(ordered):
        if one.key == next_one.key:
            raise ValueError(f"question {one.key!r} was judged twice")
    return ordered


def percent_interval(interval: Interval) -> Interval:
    """The same interval of a score in percent."""
    return Interval(100 * interval.low, 100 * interval.high, interval.confidence)


def _percent(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores)
