"""OCRBench (arXiv 2305.07895): 1,000 questions of ten kinds; a hit when the reference stands in the answer.

Published as hits out of 1,000, or a tenth of that; the score here is in percent, which is the tenth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion, Judgement, Summary
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.ocrbench import ocrbench_match
from mindvl.eval.readers import Row


class OCRBench(PlainBenchmark):
    """VLMEvalKit's OCRBench.tsv or echo840/OCRBench."""

    name: ClassVar[str] = "ocrbench"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    max_new_tokens: ClassVar[int] = 128

    def question(self, row: Row) -> EvalQuestion:
        text = row.text("question")
        references = row.texts("answer")
        if not references:
            raise row.error("answer", "is missing")
        dataset = row.maybe_text("dataset")
        return EvalQuestion(
            key=row.maybe_text("index", "id") or f"{row.file.stem} {row.number:04d}",
            part=row.part,
            messages=pictures_first(len(row.images), text.strip() if self.compat == LMMS_EVAL else text),
            images=row.images,
            references=references,
            category=row.text("question_type", "category"),
            details={} if dataset is None else {"dataset": dataset},
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        hit = ocrbench_match(
            prediction,
            question.references,
            dataset=question.details.get("dataset"),
            category=question.category,
            compat=self.compat,
        )
        return prediction, hit

    def summarise(self, judgements: Iterable[Judgement]) -> Summary:
        """Percent of all questions, and `hits` as the field counts them."""
        ordered = list(judgements)
        return replace(super().summarise(ordered), details={"hits": sum(one.score or 0.0 for one in ordered)})
