"""MMMU (arXiv 2311.16502): 900 validation questions of college subjects, pictures within the text, some open.

The harnesses are far apart here: lmms-eval published 50.67 and VLMEvalKit's rule 54.78 for the answers of one model.
VLMEvalKit makes an open question a choice between its answer and "Other Answers", and asks a judge; without one an
answer counts when it contains the reference and is not much longer.
"""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark
from mindvl.eval.benchmarks.prompts import LETTER, SHORT_ANSWER, option_lines, pictures_in_place, vlmevalkit_choice
from mindvl.eval.benchmarks.protocol import EvalQuestion
from mindvl.eval.metrics.choice import extract_choice
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.metrics.mmmu import extract_mmmu_choice, match_mmmu_open
from mindvl.eval.readers import Row

_SUBJECT = re.compile(r"[a-z]+_(.+)_\d+")


class MMMU(PlainBenchmark):
    """VLMEvalKit's MMMU_DEV_VAL.tsv (of which one split is asked), MMMU/MMMU or lmms-lab/MMMU."""

    name: ClassVar[str] = "mmmu"
    splits: ClassVar[tuple[str, ...]] = ("validation", "dev", "test")
    max_new_tokens: ClassVar[int] = 128
    image_columns: ClassVar[tuple[str, ...]] = ("image", *(f"image_{number}" for number in range(1, 8)))

    def wants(self, row: Row) -> bool:
        return row.maybe_text("split") in (None, self.wanted_split)

    def question(self, row: Row) -> EvalQuestion:
        listed = dict(zip(ascii_uppercase, row.texts("options"), strict=False))
        options = listed or row.options()
        try:
            messages, images = pictures_in_place(
                row.images, self._prompt(row.text("question"), options), strip=self.compat == LMMS_EVAL
            )
        except ValueError as error:
            raise row.error("question", str(error)) from error
        id = row.text("id", "index")
        subject = _SUBJECT.fullmatch(id)
        # Of a choice the answer is a letter; an open one may have several, and "?" stands for one that is not public.
        answer = row.maybe_text("answer")
        references = row.texts("answer") if not options and self.compat == LMMS_EVAL else (answer,)
        return EvalQuestion(
            key=id,
            part=f"{row.part} {self.wanted_split}" if row.get("split") else row.part,
            messages=messages,
            images=images,
            references=tuple(one for one in references if one is not None and one != "?"),
            options=options,
            category=row.maybe_text("category", "subject") or (subject[1] if subject else ""),
        )

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        if self.compat == LMMS_EVAL and not question.options:
            return prediction, match_mmmu_open(prediction, question.references)
        if self.compat == LMMS_EVAL:
            letter = extract_mmmu_choice(prediction, question.options)
        else:
            options = question.options or {"A": question.references[0], "B": "Other Answers"}
            letter = extract_choice(prediction, options, compat=self.compat)
        if letter is None:
            return None
        known = question.options or question.references[0] in tuple(ascii_uppercase)
        return letter, float(letter == (question.references[0] if known else "A"))

    def _prompt(self, text: str, options: dict[str, str]) -> str:
        if self.compat != LMMS_EVAL:
            return vlmevalkit_choice(text, options)
        return f"{text}\n{option_lines(options)}\n\n{LETTER}" if options else f"{text}\n{SHORT_ANSWER}"
