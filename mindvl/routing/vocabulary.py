"""Vocabulary specialization: are there words that always go to the same expert? (OLMoE, arXiv 2409.02060, section 5.3)

Only a token's first choice counts. Each word (token id) that occurs often enough belongs to the expert that gets most
of its occurrences, and the expert's value is the mean share that it gets of its words:

    word   occurrences   first choice: expert 0   expert 1      belongs to   share
    "the"  40            30                       10            0            0.75
    "x"    20             0                       20            1            1.0
    "if"   30            27                        3            0            0.9
    expert 0: (0.75 + 0.9) / 2 = 0.825          expert 1: 1.0

`tokens` may be the words at the positions themselves, the model's predictions there, or the next words of the text:
three kinds of specialization with one formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mindvl.routing.inputs import RouterIds, read_routing

MIN_OCCURRENCES = 20


def vocabulary_specialization(
    ids: RouterIds,
    tokens: np.ndarray | Sequence[Any] | Any,
    *,
    num_experts: int | None,
    min_occurrences: int = MIN_OCCURRENCES,
    allow_dropped: bool = False,
) -> np.ndarray:
    """(layers, experts) mean share of an expert's words; NaN for an expert that no word belongs to.

    Args:
        ids: expert ids in router order, the first being the first choice.
        tokens: token ids (samples, tokens), or a list of (tokens) for samples of unequal length.
        min_occurrences: rarer words are left out.
        allow_dropped: take -1 for a slot that ran no expert; a layer leaves out tokens whose first choice did not run.

    Raises:
        ValueError: when a sample has more or fewer token ids than routed tokens.
    """
    routing = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped)
    if len(tokens) != routing.num_samples:
        raise ValueError(f"there are token ids for {len(tokens)} samples, routing for {routing.num_samples}")
    choices, words = [], []
    for chunk in routing.chunks():
        choices.append(chunk.ids[:, :, 0].copy())  # a view would keep all k choices in memory
        for number in range(chunk.num_samples):
            sample = chunk.first_sample + number
            given = np.asarray(tokens[sample])
            length = int(chunk.starts[number + 1] - chunk.starts[number])
            if given.shape != (length,):
                raise ValueError(f"sample {sample} has {length} routed tokens, its token ids have shape {given.shape}")
            words.append(given)
    first_choice = np.concatenate(choices) if choices else np.zeros((0, routing.layers), np.int32)
    _, word = np.unique(np.concatenate(words) if words else np.zeros(0, np.int64), return_inverse=True)
    values = np.full((routing.layers, routing.num_experts), np.nan)
    for layer, chosen in enumerate(first_choice.T):
        ran = chosen >= 0
        owner, share, occurrences = _owners(word[ran], chosen[ran], routing.num_experts)
        frequent = occurrences >= min_occurrences
        sums = np.bincount(owner[frequent], share[frequent], minlength=routing.num_experts)
        owned = np.bincount(owner[frequent], minlength=routing.num_experts)
        values[layer, owned > 0] = sums[owned > 0] / owned[owned > 0]
    return values


def _owners(word: np.ndarray, expert: np.ndarray, num_experts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each word that occurs: the expert with most of it (the lowest id among equals), its share, occurrences."""
    pair, count = np.unique(word.astype(np.int64) * num_experts + expert, return_counts=True)
    words = pair // num_experts
    first = np.flatnonzero(np.diff(words, prepend=-1))
    occurrences = np.add.reduceat(count, first) if len(first) else np.zeros(0, np.int64)
    order = np.lexsort((pair, -count, words))  # by word, then most frequent, then id
    best = order[first]
    return pair[best] % num_experts, count[best] / occurrences, occurrences
