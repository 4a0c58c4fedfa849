"""What a resolution search costs over scoring every budget of its grid by itself, on the same questions.

A MindVL of 17 M parameters answers questions about pictures of 28 to 450 pixels a side, at nine budgets; both sides
must come to the same scores, pick and report. Costs are processor times, so that other programs matter little.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mindvl_callbacks import ResolutionResult, SearchSample, budget_grid, search_resolution
from PIL import Image

from mindvl.cli.resolution_questions import question_sample
from mindvl.cli.resolution_scorer import AnswererScore
from mindvl.data.questions import Question
from mindvl.data.tokenizer import byte_tokenizer
from mindvl.model.mindvl import MindVL
from mindvl.phases import ModelSpec
from mindvl.phases.answering import Answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.model_spec import config_of
from tests.benchmarks.midsize import LANGUAGE, VISION
from tests.benchmarks.rows import Row

ROWS = ("search_cost_ratio",)
NUM_SELECTION, NUM_REPORT, BATCH_SIZE, MAX_NEW_TOKENS = 32, 8, 8, 4
TOKEN = 28 * 28
BUDGETS = budget_grid([4 * TOKEN, 16 * TOKEN, 64 * TOKEN], [64 * TOKEN, 128 * TOKEN, 256 * TOKEN])
SMALLEST_PIXELS, LARGEST_PIXELS = 28, 450


def measure() -> list[Row]:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    language = {name: value for name, value in LANGUAGE.items() if name != "vocab_size"}
    model = MindVL(config_of(ModelSpec(vision=VISION, language=language), tokenizer)).eval()
    score = AnswererScore(Answerer(model, tokenizer), batch_size=BATCH_SIZE)
    samples = _samples(score)
    selection, report = samples[:NUM_SELECTION], samples[NUM_SELECTION:]

    def search(method: str) -> ResolutionResult:
        return search_resolution(
            selection,
            report,
            budgets=BUDGETS,
            score=score,
            grid_of=score.grid_of,
            batch_size=BATCH_SIZE,
            method=method,
        )["noise"]

    def separate() -> tuple[list[float], tuple[int, int]]:
        means = [_mean(score, selection, budget) for budget in BUDGETS]
        tokens = [_mean_tokens(score, selection, budget) for budget in BUDGETS]
        best = max(range(len(BUDGETS)), key=lambda number: (means[number], -tokens[number], -number))
        reported = [_mean(score, report, budget) for budget in dict.fromkeys((BUDGETS[0], BUDGETS[best]))]
        return [*means, reported[0], reported[-1]], BUDGETS[best]

    score(selection[:1], BUDGETS[0])  # warm
    separate_s, (means, best) = _processor_s(separate)
    grid_s, found = _processor_s(lambda: search("grid"))
    halving_s, _ = _processor_s(lambda: search("halving"))
    ours = [point.selection.score for point in found.grid]
    ours += [point.report.score for point in (found.default, found.chosen) if point.report]
    if not np.allclose(means, ours, atol=1e-12) or best != (found.chosen.min_pixels, found.chosen.max_pixels):
        raise ValueError(f"the search found {ours}, runs of their own {means}")
    against = (
        f"{len(BUDGETS)} budgets x {NUM_SELECTION} questions, one by one: {separate_s:.1f} s; the search asks "
        f"{found.cost.num_scored} of {found.cost.num_separate}; by halving {halving_s / separate_s:.2f}"
    )
    return [Row("search_cost_ratio", grid_s / separate_s, "ratio", against)]


def _samples(score: AnswererScore) -> list[SearchSample]:
    """Questions about noise; what the model says at its own budget counts as right, so that scores differ."""
    random = np.random.default_rng(0)
    samples = []
    for number in range(NUM_SELECTION + NUM_REPORT):
        sides = np.exp(random.uniform(np.log(SMALLEST_PIXELS), np.log(LARGEST_PIXELS), 2)).astype(int)
        with io.BytesIO() as stream:
            Image.fromarray(random.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(stream, "PNG")
            picture = stream.getvalue()
        question = Question(f"{number:03d}", "noise", "What is it?", "", "exact_match", (picture,))
        asked = question_sample(question, benchmark="noise", max_new_tokens=MAX_NEW_TOKENS)
        (answer,) = score.answerer.answer(asked.content.prompts, Decoding(max_new_tokens=MAX_NEW_TOKENS))
        right = replace(question, answer=answer.text)
        samples.append(question_sample(right, benchmark="noise", max_new_tokens=MAX_NEW_TOKENS))
    return samples


def _mean(score: AnswererScore, samples: list[SearchSample], budget: tuple[int, int]) -> float:
    return sum(score(samples, budget)) / len(samples)


def _mean_tokens(score: AnswererScore, samples: list[SearchSample], budget: tuple[int, int]) -> float:
    grids = (score.grid_of(sample, budget) for sample in samples)
    return sum(rows * columns for grid in grids for rows, columns in grid) / len(samples)


def _processor_s(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found
