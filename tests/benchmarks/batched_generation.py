"""Answers a second, many prompts at a time against one after the other, with the same text.

The model has the quickstart's sizes and random weights; all answers are NEW_TOKENS tokens long, because a random model
ends its turn where chance will have it. Pictures are those of the quickstart's families, drawn for the purpose.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import yaml

from mindvl.data.questions import load_questions
from mindvl.data.render.writer import render
from mindvl.data.tokenizer import byte_tokenizer
from mindvl.model.mindvl import MindVL
from mindvl.phases import ModelSpec
from mindvl.phases.answering import Answer, Answerer, Prompt
from mindvl.phases.decoding import Decoding
from mindvl.phases.model_spec import config_of
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.rows import Row

ROWS = ("batched_generation_ratio",)
CONFIGS = Path(__file__).parents[2] / "configs" / "quickstart"
FAMILIES = ("ocr_line", "ocr_paragraph", "receipt", "chart_bar", "grounding", "counting", "caption", "table")
PER_FAMILY, NEW_TOKENS, ROUNDS = 8, 24, 3


def measure() -> list[Row]:
    recipe = yaml.safe_load((CONFIGS / "recipe.yaml").read_text())
    tokenizer = byte_tokenizer(recipe["tokenizer"]["words"].split())
    torch.manual_seed(0)
    spec = ModelSpec(**recipe["model"])
    answerer = Answerer(MindVL(config_of(spec, tokenizer)).eval(), tokenizer)
    prompts = _prompts()
    decoding = Decoding(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    said: dict[str, list[Answer]] = {}

    def together() -> None:
        said["together"] = answerer.answer(prompts, decoding)

    def alone() -> None:
        said["alone"] = [answerer.answer([prompt], decoding)[0] for prompt in prompts]

    times_s = median_times_s({"together": together, "alone": alone}, rounds=ROUNDS)
    if said["together"] != said["alone"]:
        raise ValueError("answers in a batch differ from those given one by one")
    if len({answer.text for answer in said["alone"]}) < len(prompts) // 2:
        raise ValueError("the answers are nearly all the same text, which proves nothing about batches")
    per_s = {name: len(prompts) / seconds for name, seconds in times_s.items()}
    against = (
        f"{len(prompts)} prompts of 1 picture, {NEW_TOKENS} new tokens: {per_s['alone']:.1f} samples/s one by one, "
        f"{per_s['together']:.1f} together"
    )
    return [Row("batched_generation_ratio", times_s["alone"] / times_s["together"], "ratio", against)]


def _prompts() -> list[Prompt]:
    """The first questions of each family's test split."""
    config = yaml.safe_load((CONFIGS / "data.yaml").read_text())
    sources = {name: {**config["sources"][name], "train": 0, "validation": 0, "test": PER_FAMILY} for name in FAMILIES}
    with tempfile.TemporaryDirectory() as folder:
        render({**config, "sources": sources}, Path(folder), workers=1)
        asked = [
            question
            for name in FAMILIES
            for question in load_questions(name, Path(folder) / "test" / f"{name}-*.tar", limit=PER_FAMILY)
        ]
    return [Prompt(question.messages, question.images) for question in asked]
