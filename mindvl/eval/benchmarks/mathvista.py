"""MathVista (arXiv 2310.02255): 1,000 "testmini" questions about figures; choices, whole numbers, decimals, lists.

Published scores use a paid model to read and to judge the answers. Here only rules do, and what they cannot read is
listed and counts as wrong: a score without a judge is a lower bound, and must say so.
"""

from __future__ import annotations

from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import LETTER, option_lines, pictures_first
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.choice import lettered
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.mathvista import ANSWER_TYPES, MathVistaTask, judge_mathvista
from mindvl.eval.readers import Row

_PLACES = {1: "one decimal place", 2: "two decimal places"}


class MathVista(PlainBenchmark):
    """VLMEvalKit's MathVista_MINI.tsv, whose questions are whole prompts, or AI4Math/MathVista."""

    name: ClassVar[str] = "mathvista"
    splits: ClassVar[tuple[str, ...]] = ("testmini", "test")
    max_new_tokens: ClassVar[int] = 1024
    image_columns: ClassVar[tuple[str, ...]] = ("decoded_image",)

    def question(self, row: Row) -> EvalQuestion:
        answer_type, choices = row.text("answer_type"), row.texts("choices")
        answer, metadata = row.maybe_text("answer"), row.get("metadata")
        if answer_type not in ANSWER_TYPES:
            raise row.error("answer_type", f"{answer_type!r} is none of {', '.join(ANSWER_TYPES)}")
        if choices and answer is not None and answer not in choices:
            raise row.error("answer", f"{answer!r} is none of the choices: {', '.join(choices)}")
        precision = int(float(row.maybe_text("precision") or 0))
        return EvalQuestion(
            key=row.text("pid", "index"),
            part=row.part,
            messages=pictures_first(len(row.images), self._prompt(row, answer_type, choices, precision)),
            images=row.images,
            references=() if answer is None else (answer,),
            options=lettered(choices),
            category=str((metadata if isinstance(metadata, dict) else row.values).get("task") or ""),
            details={"answer_type": answer_type, "precision": str(precision)},
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        task = MathVistaTask(
            answer=question.references[0],
            answer_type=question.details["answer_type"],
            choices=tuple(question.options.values()),
            precision=int(question.details["precision"]),
        )
        return judge_mathvista(prediction, task, compat=self.compat)

    def _prompt(self, row: Row, answer_type: str, choices: tuple[str, ...], precision: int) -> str:
        text = row.text("question")
        if row.get("index") is not None:
            return text
        if self.compat != LMMS_EVAL:
            return row.text("query")
        unit = row.maybe_text("unit")
        lines = [f"{text} (Unit: {unit})" if unit else text]
        if choices:
            return "\n".join([*lines, option_lines(lettered(choices)), LETTER])
        wanted = {
            "integer": "a single integer number",
            "float": f"a single floating-point number with {_PLACES.get(precision, f'{precision} decimal places')}",
            "list": "a Python list",
            "text": "a single word or phrase",
        }[answer_type]
        request = f"Answer the question using {wanted}."
        return "\n".join([*lines, request])
