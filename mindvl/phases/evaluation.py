"""Scores of a model on questions with known answers.

A question that cannot be asked, because its picture is broken, counts as wrong and is listed: a score over 149 of 150
questions would be another benchmark's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mindvl.data.questions import Question
from mindvl.eval.scoring import score
from mindvl.phases.answering import GREEDY, Answerer, Prompt
from mindvl.phases.decoding import Decoding

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """A question with what the model said."""

    question: Question
    prediction: str
    score: float
    visual_tokens: int
    finish: Literal["stop", "length"] | None = None
    """How the answer ended; "length" is an answer that was cut."""
    error: str | None = None
    """Why the question could not be asked; it counts as wrong."""


def evaluate(
    answerer: Answerer, questions: Sequence[Question], decoding: Decoding = GREEDY, *, batch_tokens: int = 16384
) -> list[Judged]:
    """Ask everything and judge each answer by its question's own metric, in the order of the questions."""
    prompts = [Prompt(question.messages, question.images) for question in questions]
    answers = answerer.answer(prompts, decoding, batch_tokens=batch_tokens, keep_going=True)
    judged = [
        Judged(
            question,
            answer.text,
            0.0 if answer.error else score(question.metric, answer.text, question.answer),
            answer.visual_tokens,
            answer.finish,
            answer.error,
        )
        for question, answer in zip(questions, answers, strict=True)
    ]
    for line in failures(judged):
        log.warning("counted as wrong: %s", line)
    return judged


def failures(judged: Sequence[Judged]) -> list[str]:
    """A line for each question that could not be asked: its source, its key and the reason."""
    return [f"{item.question.source}: {item.question.key}: {item.error}" for item in judged if item.error]


def scores_by_source(judged: Sequence[Judged]) -> dict[str, float]:
    """Mean score of each source, and under "mean" the mean over sources, each weighing the same."""
    by_source: dict[str, list[float]] = {}
    for item in judged:
        by_source.setdefault(item.question.source, []).append(item.score)
    scores = {source: sum(values) / len(values) for source, values in by_source.items()}
    return {**scores, "mean": sum(scores.values()) / len(scores)}
