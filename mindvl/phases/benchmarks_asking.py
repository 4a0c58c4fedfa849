"""Asking the questions of a benchmark: dealt to ranks like cards, and only those that have no answer yet.

    questions     q0  q1  q2  q3  q4  q5  q6        answered before the run was killed: q1, q4
    two ranks     q0          q3          q6        rank 0
                      .   q2      .   q5            rank 1

Nobody pads the deal: a question belongs to one rank, once. All ranks read the whole file in order, so they agree
without a word, and hold the pictures of a window of questions at a time (`WINDOW` per rank).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import xxhash

from mindvl.eval.benchmarks import Benchmark, EvalQuestion, Judgement
from mindvl.phases.answering import Answer, Answerer, Prompt
from mindvl.phases.decoding import Decoding

WINDOW = 256
"""Questions of one rank whose pictures are in memory together, and among which batches of like length are made."""

NO_PICTURE = "the row has no picture"
"""Every question of these benchmarks has one; a guess without it is no answer."""

_OF_THE_ANSWER = ("finish", "pixels", "visual_tokens", "new_tokens", "error", "digest")
"""Fields of a line that stay as they were written; what is judged may change with the references."""


@dataclass(frozen=True)
class Share:
    """Which questions are this rank's: number `rank` of every `ranks`. Of ranks with the same share one `writes`."""

    rank: int = 0
    ranks: int = 1
    writes: bool = True


@dataclass(frozen=True)
class Asking:
    """How the questions of one benchmark are asked."""

    benchmark: Benchmark
    answerer: Answerer
    decoding: Decoding
    batch_tokens: int
    between: Callable[[], None] = lambda: None
    """Called before each batch."""

    def ask_missing(
        self,
        questions: Iterable[EvalQuestion],
        known: Mapping[str, Mapping[str, Any]],
        share: Share,
        keep: Callable[[dict[str, Any]], None],
    ) -> list[EvalQuestion]:
        """Ask this rank's share of what is not `known`; all questions in their order come back, without pictures.

        Args:
            known: lines of earlier answers by id.
            keep: gets the line of each answer as soon as it is judged.

        Raises:
            ValueError: where a known line is of a question with other words or pictures.
        """
        asked: list[EvalQuestion] = []
        mine: list[EvalQuestion] = []
        missing = 0
        for question in questions:
            asked.append(replace(question, images=()))
            if question.key in known:
                self._check(question, known[question.key])
                continue
            if missing % share.ranks == share.rank:
                mine.append(question)
            missing += 1
            if missing % (WINDOW * share.ranks) == 0:
                self._ask(mine, keep)
                mine = []
        self._ask(mine, keep)
        return asked

    def _ask(self, questions: list[EvalQuestion], keep: Callable[[dict[str, Any]], None]) -> None:
        for blind in (question for question in questions if not question.images):
            keep(line_of(self.benchmark, blind, Answer("", 0, error=NO_PICTURE)))
        questions = [question for question in questions if question.images]
        prompts = [Prompt(question.messages, question.images) for question in questions]
        answers = self.answerer.answer_each(
            prompts, self.decoding, batch_tokens=self.batch_tokens, keep_going=True, between=self.between
        )
        for number, answer in answers:
            keep(line_of(self.benchmark, questions[number], answer))

    def _check(self, question: EvalQuestion, line: Mapping[str, Any]) -> None:
        if line["digest"] != digest_of(question):
            raise ValueError(
                f"question {question.key} of {self.benchmark.name} has other words or pictures than the one that was "
                "answered before: name another folder by `out`, or remove its answers"
            )


def digest_of(question: EvalQuestion) -> str:
    """xxh3 of what is asked: words and pictures."""
    digest = xxhash.xxh3_64(repr(question.messages).encode())
    for picture in question.images:
        digest.update(picture)
    return digest.hexdigest()


def line_of(benchmark: Benchmark, question: EvalQuestion, answer: Answer) -> dict[str, Any]:
    """What is kept of a question."""
    return judged_line(
        benchmark,
        question,
        {
            "raw": None if answer.error else answer.text,
            "finish": answer.finish,
            "pixels": [list(size) for size in answer.sizes],
            "visual_tokens": answer.visual_tokens,
            "new_tokens": answer.new_tokens,
            "error": answer.error,
            "digest": digest_of(question),
        },
    )


def judged_line(benchmark: Benchmark, question: EvalQuestion, answered: Mapping[str, Any]) -> dict[str, Any]:
    """The line of an answer, judged by the references that the file has now; pictures are not needed.

    Wrong is 0, also without an answer; null is what nobody here can score.
    """
    judged = benchmark.judge(question, answered["raw"], answered["error"] or "")
    score = judged.score
    if score is None and judged.has_reference:
        score = 0.0
    return {
        "id": question.key,
        "part": question.part,
        "category": question.category,
        "group": question.group,
        "group_size": question.group_size,
        "prompt": prompt_text(question),
        "raw": answered["raw"],
        "extracted": judged.extracted,
        "score": score,
        "reason": judged.reason,
        "references": list(question.references),
        **{name: answered[name] for name in _OF_THE_ANSWER},
    }


def judgement_of(line: Mapping[str, Any]) -> Judgement:
    """The judgement that a line was made of."""
    return Judgement(
        key=line["id"],
        part=line["part"],
        extracted=line["extracted"],
        score=None if line["reason"] else line["score"],
        reason=line["reason"],
        category=line["category"],
        group=line["group"],
        group_size=line["group_size"],
        has_reference=bool(line["references"]),
    )


def prompt_text(question: EvalQuestion) -> str:
    """What is asked, as text with <image> where a picture stands and without the marks of the chat template."""
    parts = [part for message in question.messages for part in message["content"]]
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)
