"""MME (arXiv 2306.13394): two yes-no questions about each picture of fourteen categories; 2,374 questions.

Published as a sum of up to 2,800; MindVL's table divides it by 28. `details` has the sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark, in_order, percent_interval
from mindvl.eval.benchmarks.prompts import SHORT_ANSWER, pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion, Judgement, Summary
from mindvl.eval.bootstrap import bootstrap_interval
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.mme import QUESTIONS_PER_IMAGE, MMERecord, mme_score
from mindvl.eval.metrics.yes_no import extract_yes_no
from mindvl.eval.readers import Row

_REQUEST = " Please answer yes or no."


class MME(PlainBenchmark):
    """VLMEvalKit's MME.tsv or lmms-lab/MME. A limit counts pictures, each with both of its questions."""

    name: ClassVar[str] = "mme"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    max_new_tokens: ClassVar[int] = 16

    def questions(self, path: Path, limit: int | None = None) -> Iterator[EvalQuestion]:
        """Questions in the order of the file; lmms-lab's file gives both of a pair one id, here they are numbered."""
        asked: dict[str, int] = defaultdict(int)

        def numbered(question: EvalQuestion) -> EvalQuestion:
            asked[question.group] += 1
            return replace(question, key=f"{question.group} {asked[question.group]}")

        return (numbered(question) for question in super().questions(path, limit))

    def question(self, row: Row) -> EvalQuestion:
        text, category = row.text("question"), row.text("category")
        if self.compat == LMMS_EVAL:
            text = text.strip().replace(_REQUEST, "") + SHORT_ANSWER
        answer = row.text("answer").strip().lower().replace(".", "")
        if answer not in ("yes", "no"):
            raise row.error("answer", f"{answer!r} is neither yes nor no")
        return EvalQuestion(
            key=f"{row.file} {row.number}",
            part=row.part,
            messages=pictures_first(len(row.images), text),
            images=row.images,
            references=(answer,),
            category=category,
            group=f"{category}/{row.text('image_path', 'question_id')}",
            group_size=QUESTIONS_PER_IMAGE,
        )

    def check_groups(self, questions: Sequence[EvalQuestion]) -> None:
        """Raises ValueError when a picture lacks a question, and for a category that MME does not have."""
        mme_score((MMERecord(one.category, one.group, True) for one in questions), compat=self.compat, partial=True)

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        said = extract_yes_no(prediction, compat=self.compat)
        return None if said is None else (said, float(said in question.references))

    def summarise(self, judgements: Iterable[Judgement]) -> Summary:
        """Points in hundredths of what the asked categories offer (the sum / 28 when all are there).

        Categories are in points, 0 to 200.

        Raises:
            ValueError: when a picture has other than two judgements, or a key comes twice.
        """
        ordered = in_order(judgements)
        points = mme_score(
            (MMERecord(one.category, one.group, one.score == 1) for one in ordered), compat=self.compat, partial=True
        )
        pictures: dict[str, list[Judgement]] = defaultdict(list)
        for one in ordered:
            pictures[one.group].append(one)
        # A picture's share of its category: 100 points for the mean of its questions, 100 more for both.
        pairs = list(pictures.values())
        right = [[one.score == 1 for one in pair] for pair in pairs]
        shares = [(sum(pair) / len(pair) + all(pair)) / 2 for pair in right]
        interval = bootstrap_interval(shares, strata=[pair[0].category for pair in pairs])
        return replace(
            self.summary(ordered, shares, [pair[0].category for pair in pairs]),
            score=points.percent,
            by_category=dict(points.by_category),
            interval=percent_interval(interval),
            details={
                "perception": points.perception,
                "cognition": points.cognition,
                "total": points.total,
                "num_categories": float(len(points.by_category)),
            },
        )
