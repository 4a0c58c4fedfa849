"""Scores of a model on questions with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindvl.data.questions import Question
from mindvl.eval.scoring import score
from mindvl.phases.answering import Answerer, Prompt


@dataclass(frozen=True)
class Judged:
    """A question with what the model said."""

    question: Question
    prediction: str
    score: float
    visual_tokens: int


def evaluate(
    answerer: Answerer, questions: Sequence[Question], *, max_new_tokens: int = 64, batch_size: int = 96
) -> list[Judged]:
    """Ask everything and judge each answer by its question's own metric, in the order of the questions."""
    prompts = [Prompt(question.messages, question.images) for question in questions]
    answers = answerer.answer(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return [
        Judged(question, answer.text, score(question.metric, answer.text, question.answer), answer.visual_tokens)
        for question, answer in zip(questions, answers, strict=True)
    ]


def scores_by_source(judged: Sequence[Judged]) -> dict[str, float]:
    """Mean score of each source, and under "mean" the mean over sources, each weighing the same."""
    by_source: dict[str, list[float]] = {}
    for item in judged:
        by_source.setdefault(item.question.source, []).append(item.score)
    scores = {source: sum(values) / len(values) for source, values in by_source.items()}
    return {**scores, "mean": sum(scores.values()) / len(scores)}
