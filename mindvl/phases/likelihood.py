"""How likely a model finds a given answer: what multiple-choice harnesses rank their options by.

    "Which animal is it? A cat or a dog?"     "A cat"  -2.3   not what it would say
                                              "A dog"  -0.4   what it would say itself

The answer stands where the model would begin to write it, after the chat template's last word, which with Qwen3's is
the end of its empty thoughts; the token that would end the turn is not counted. Sums are in nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mindvl.data.tokenizer import text_only
from mindvl.phases.answering import Answerer, Prompt, _Encoded


@dataclass(frozen=True)
class Likelihood:
    """Of an answer, given its prompt."""

    log_prob: float
    """Sum over the answer's tokens, in nats; 0 for an empty answer."""
    greedy: bool
    """Whether each of its tokens is the likeliest one where it stands."""


def likelihoods(
    answerer: Answerer, prompts: Sequence[Prompt], answers: Sequence[str], *, batch_tokens: int = 16384
) -> list[Likelihood]:
    """Of each answer to the prompt beside it.

    Prompts that follow each other and are equal, as those of a question's options are, are decoded once. A batch holds
    `batch_tokens` tokens, padding included, and at least one prompt. ValueError for a prompt that cannot be asked.
    """
    found: list[Likelihood] = []
    for rows, tails in _batches(answerer, zip(prompts, answers, strict=True), batch_tokens):
        found += _score(answerer, rows, tails)
    return found


def _batches(
    answerer: Answerer, pairs: Iterator[tuple[Prompt, str]], batch_tokens: int
) -> Iterator[tuple[list[_Encoded], list[np.ndarray]]]:
    """Prompts with their answers behind them, and the answers' ids."""
    plain = text_only(answerer.tokenizer)
    opening = np.asarray(plain.encode(answerer.opening, add_special_tokens=False).ids, np.int64)
    rows: list[_Encoded] = []
    tails: list[np.ndarray] = []
    last: tuple[Prompt, _Encoded] | None = None
    for prompt, answer in pairs:
        if last is None or prompt != last[0]:
            last = prompt, answerer._encode(prompt)
        tail = np.asarray(plain.encode(answer, add_special_tokens=False).ids, np.int64)
        row = replace(last[1], input_ids=np.concatenate([last[1].input_ids, opening, tail]))
        longest = max(len(each.input_ids) for each in [*rows, row])
        if rows and longest * (len(rows) + 1) > batch_tokens:
            yield rows, tails
            rows, tails = [], []
        rows, tails = [*rows, row], [*tails, tail]
    if rows:
        yield rows, tails


@torch.inference_mode()
def _score(answerer: Answerer, rows: list[_Encoded], tails: list[np.ndarray]) -> list[Likelihood]:
    inputs = answerer._padded(rows)  # on the left, so all answers end together
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    longest = max(len(tail) for tail in tails)
    output = answerer.model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=longest + 1)
    log_probs = output.logits[:, :-1].float().log_softmax(-1).cpu()
    found = []
    for row, tail in zip(log_probs, tails, strict=True):
        mine, ids = row[len(row) - len(tail) :], torch.from_numpy(tail)
        log_prob = mine.gather(1, ids[:, None]).double().sum().item()
        found.append(Likelihood(log_prob, greedy=bool((mine.argmax(-1) == ids).all())))
    return found
