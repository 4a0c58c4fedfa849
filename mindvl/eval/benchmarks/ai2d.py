"""AI2D (arXiv 1603.07396): 3,088 multiple-choice questions about school diagrams.

There are two sets. In the usual one the letters that stand for labels are masked out of the pictures; the other
(AI2D_TEST_NO_MASK, ai2d-no-mask) scores much higher. The label of a summary's data tells them apart.
"""

from __future__ import annotations

import re
from string import ascii_uppercase, punctuation
from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import LETTER, option_lines, pictures_first, vlmevalkit_choice
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.choice import extract_choice
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.readers import Row

_LEADING_LETTER = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", punctuation)


class AI2D(PlainBenchmark):
    """VLMEvalKit's AI2D_TEST.tsv, or lmms-lab/ai2d."""

    name: ClassVar[str] = "ai2d"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    max_new_tokens: ClassVar[int] = 16

    def question(self, row: Row) -> EvalQuestion:
        listed = dict(zip(ascii_uppercase, row.texts("options"), strict=False))
        options = listed or row.options()
        text, answer = row.text("question"), row.text("answer")
        if answer.isdigit() and int(answer) < len(options):
            answer = list(options)[int(answer)]  # Hugging Face's copy counts options from 0
        if answer not in options:
            raise row.error("answer", f"{answer!r} is none of the options {', '.join(options)}")
        if self.compat == LMMS_EVAL:
            prompt = f"{text}\n{option_lines(options)}\n{LETTER}"
        else:
            prompt = vlmevalkit_choice(text, options, row.maybe_text("hint"))
        return EvalQuestion(
            key=row.maybe_text("index") or f"{row.file.stem} {row.number:05d}",
            part=row.part,
            messages=pictures_first(len(row.images), prompt),
            images=row.images,
            references=(answer,),
            options=options,
            category=row.maybe_text("category") or "",
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        letter = self._letter(prediction, question)
        return None if letter is None else (letter, float(letter in question.references))

    def _letter(self, prediction: str, question: EvalQuestion) -> str | None:
        if self.compat != LMMS_EVAL:
            return extract_choice(prediction, question.options, compat=self.compat)
        # lmms-eval compares the letter that leads, or else the whole answer, apart from case and punctuation.
        leading = _LEADING_LETTER.match(prediction)
        said = (leading[1] if leading else prediction).translate(_NO_PUNCTUATION).upper()
        return said if said in question.options else None
