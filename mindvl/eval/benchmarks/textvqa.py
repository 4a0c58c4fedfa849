"""TextVQA (arXiv 1904.08920): questions about text in photographs, ten people's answers each, scored by VQA accuracy.

lmms-eval capitalises the first letter of a question and puts all others in lower case, names included.
"""

from __future__ import annotations

from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import SHORT_ANSWER, pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.vqa import normalise_vqa, vqa_accuracy
from mindvl.eval.readers import Row


class TextVQA(PlainBenchmark):
    """VLMEvalKit's TextVQA_VAL.tsv or lmms-lab/textvqa; 5,000 validation questions."""

    name: ClassVar[str] = "textvqa"
    splits: ClassVar[tuple[str, ...]] = ("validation", "test", "train")
    max_new_tokens: ClassVar[int] = 32

    def question(self, row: Row) -> EvalQuestion:
        text = row.text("question")
        asked = text.capitalize() if self.compat == LMMS_EVAL else text
        return EvalQuestion(
            key=row.text("question_id", "index"),
            part=row.part,
            messages=pictures_first(len(row.images), asked + SHORT_ANSWER),
            images=row.images,
            references=row.texts("answers", "answer"),
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        score = vqa_accuracy(prediction, question.references, compat=self.compat)
        return normalise_vqa(prediction, compat=self.compat), score
