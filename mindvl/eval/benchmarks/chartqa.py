"""ChartQA (arXiv 2203.10244): 2,500 test questions about charts, half of them people's, scored by relaxed accuracy.

The halves are equally large, so the score over all questions is also the mean of the two.
"""

from __future__ import annotations

from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import SHORT_ANSWER, SINGLE_WORD, pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.relaxed import relaxed_accuracy
from mindvl.eval.readers import Row

_HALVES = {"0": "human", "human": "human", "1": "augmented", "augmented": "augmented"}


class ChartQA(PlainBenchmark):
    """VLMEvalKit's ChartQA_TEST.tsv, lmms-lab/ChartQA or HuggingFaceM4/ChartQA."""

    name: ClassVar[str] = "chartqa"
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    max_new_tokens: ClassVar[int] = 16

    def question(self, row: Row) -> EvalQuestion:
        suffix = SINGLE_WORD if self.compat == LMMS_EVAL else SHORT_ANSWER
        answer = row.get("answer", "label")
        if answer is None:
            raise row.error("answer", "is missing")
        return EvalQuestion(
            key=row.maybe_text("index") or f"{row.file.stem} {row.number:05d}",
            part=row.part,
            messages=pictures_first(len(row.images), row.text("question", "query") + suffix),
            images=row.images,
            # A list that is written as text is VLMEvalKit's affair: its rule takes it for alternatives.
            references=tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),),
            category=self._half(row),
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        scores = (relaxed_accuracy(prediction, one, compat=self.compat) for one in question.references)
        return prediction, max(scores)

    @staticmethod
    def _half(row: Row) -> str:
        """ "human" or "augmented", from "human_test", "test_human" or 0; "" where the file does not say."""
        label = row.maybe_text("type", "human_or_machine", "split")
        return "" if label is None else next((half for word, half in _HALVES.items() if word in label), "")
