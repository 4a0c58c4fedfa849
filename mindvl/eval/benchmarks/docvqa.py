"""DocVQA (arXiv 2007.00398): questions about scanned pages, scored by ANLS.

The answers of the test split, of which the paper's 96.0 speaks, stay on a server; here the validation split (5,349
questions) is scored, and its number must be called that.
"""

from __future__ import annotations

from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import SHORT_ANSWER, pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.anls import anls
from mindvl.eval.readers import Row


class DocVQA(PlainBenchmark):
    """VLMEvalKit's DocVQA_VAL.tsv, lmms-lab/DocVQA, or the server's JSON with its pictures."""

    name: ClassVar[str] = "docvqa"
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    max_new_tokens: ClassVar[int] = 32

    @property
    def subfolder(self) -> str | None:
        """One repository holds this set and InfoVQA."""
        return "DocVQA"

    def question(self, row: Row) -> EvalQuestion:
        return EvalQuestion(
            key=row.text("questionId", "index"),
            part=row.part,
            messages=pictures_first(len(row.images), row.text("question") + SHORT_ANSWER),
            images=row.images,
            references=row.texts("answers", "answer"),
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        return prediction, anls(prediction, question.references, compat=self.compat)
