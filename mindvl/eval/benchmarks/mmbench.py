"""MMBench (arXiv 2307.06281), V1.0 and V1.1: multiple choice, every question asked once per rotation of its options.

"MMBench" alone says too little: the label of a summary's data names version, language and split. The paper's column is
V1.1, English, test, whose answers stay on a server; MMBench_DEV_EN_V11.tsv has the dev split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mindvl.eval.benchmarks.plain import PlainBenchmark, in_order
from mindvl.eval.benchmarks.prompts import LETTER, option_lines, pictures_first, vlmevalkit_choice
from mindvl.eval.benchmarks.protocol import EvalQuestion, Judgement, Summary
from mindvl.eval.metrics.choice import extract_choice
from mindvl.eval.metrics.circular import ROTATION_STEP, CircularRecord, circular_hits, is_missing
from mindvl.eval.metrics.compat import LMMS_EVAL
from mindvl.eval.readers import Row


@dataclass(frozen=True, kw_only=True)
class MMBench(PlainBenchmark):
    """VLMEvalKit's MMBench_*.tsv or lmms-lab/MMBench. A limit counts questions, each with all of its rotations.

    Args:
        language: of lmms-lab's repository, which keeps each in a folder: "en", "cn" or "cc".
    """

    name: ClassVar[str] = "mmbench"
    splits: ClassVar[tuple[str, ...]] = ("dev", "test")
    max_new_tokens: ClassVar[int] = 1024

    language: str = "en"

    @property
    def subfolder(self) -> str | None:
        return self.language

    def question(self, row: Row) -> EvalQuestion:
        stored = row.options()
        options = {letter: text for letter, text in stored.items() if not is_missing(text)}
        if not options:
            raise row.error("A", "the row has 0 options")
        hint, text = row.maybe_text("hint"), row.text("question")
        if self.compat == LMMS_EVAL:
            prompt = f"{text} There are several options:\n{option_lines(options)}\n\n{LETTER}"
            prompt = prompt if hint in (None, "nan") else f"{hint} {prompt}"
        else:
            prompt = vlmevalkit_choice(text, options, hint)
        index = row.text("index")
        if not index.isdigit():
            raise row.error("index", f"{index!r} is no number of a question and its rotation")
        return EvalQuestion(
            key=index,
            part=row.part,
            messages=pictures_first(len(row.images), prompt),
            images=row.images,
            references=row.texts("answer"),
            # Options that are missing but stored as the text "nan" are options to lmms-eval's matching.
            options=stored if self.compat == LMMS_EVAL else options,
            category=row.maybe_text("category") or "",
            group=str(int(index) % ROTATION_STEP),
            group_size=len(options),
        )

    def check_groups(self, questions: Sequence[EvalQuestion]) -> None:
        """Raises ValueError when a question lacks rotations."""
        circular_hits(CircularRecord(int(one.key), one.group_size, True) for one in questions)

    def read(self, question: EvalQuestion, prediction: str) -> tuple[str, float] | None:
        letter = extract_choice(prediction.strip(), question.options, compat=self.compat)
        return None if letter is None else (letter, float(letter in question.references))

    def summarise(self, judgements: Iterable[Judgement]) -> Summary:
        """Percent of the questions that are right in every rotation, and of each category's.

        Raises:
            ValueError: when rotations are missing, or a key comes twice.
        """
        ordered = in_order(judgements)
        groups: dict[str, list[Judgement]] = defaultdict(list)
        for one in ordered:
            groups[one.group].append(one)
        hits = circular_hits(CircularRecord(int(one.key), one.group_size, one.score == 1) for one in ordered)
        names = list(groups)
        return self.summary(
            ordered, [float(hits[int(name)]) for name in names], [groups[name][0].category for name in names]
        )
