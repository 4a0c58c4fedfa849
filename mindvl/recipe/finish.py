"""The end of a recipe: scores, the average against its parts, the resolution search, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mindvl_callbacks import BudgetScore, SearchSample, search_resolution

from mindvl.cli.resolution_questions import question_sample
from mindvl.cli.resolution_scorer import load_scorer
from mindvl.data.questions import Question, load_questions
from mindvl.phases.answering import load_answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.evaluation import Judged, evaluate, scores_by_source
from mindvl.recipe.curves import StageCurves, read_metrics
from mindvl.recipe.recipe import Recipe, fingerprint
from mindvl.recipe.report import SampleCard, write_report

METRIC_NAMES = {"exact_match": "exact match", "relaxed_accuracy": "within 5 %", "box_iou": "IoU >= 0.5"}
CARDS_PER_SOURCE = 3


class Scorer:
    """Scores saved models on the recipe's questions."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.out = recipe, Path(recipe.out)
        self.report = recipe.asked_report()
        self.sources = list(recipe.mixture_of(recipe.stage(self.report.final)))

    def questions(self, split: str, limit: int) -> list[Question]:
        """The first `limit` questions of each source that has pictures."""
        asked: list[Question] = []
        for source in self.sources:
            found = load_questions(source, self.out / "data" / split / f"{source}-*.tar", limit=limit)
            asked.extend(question for question in found if question.images)
        return asked

    def judge(self, stage: str, questions: Sequence[Question]) -> list[Judged]:
        """Judged answers of a stage's model at the default pixel budget."""
        low, high = self.report.budgets[0]
        answerer = load_answerer(self.out / stage / "model", min_pixels=low, max_pixels=high)
        return evaluate(answerer, questions, Decoding(max_new_tokens=self.report.max_new_tokens))


def finish(recipe: Recipe, *, data_s: float) -> Path:
    """Score, search, write `results.json`, `answers.jsonl` and `report.html`; returns the report's path."""
    start = time.perf_counter()
    report, scorer, out = recipe.asked_report(), Scorer(recipe), Path(recipe.out)
    test = scorer.questions("test", report.questions)
    print(f"scoring {len(test)} test questions of {len(scorer.sources)} families", flush=True)
    judged = scorer.judge(report.final, test)
    blank = scorer.judge(report.final, [question.blanked() for question in test])
    fewer = scorer.questions("test", report.singles_questions)
    singles = {name: scores_by_source(scorer.judge(stage, fewer)) for name, stage in report.singles.items()}
    average = scores_by_source(scorer.judge(report.average, fewer))
    resolution = _search(scorer, fewer)
    done = {stage.name: json.loads((out / stage.name / "done.json").read_text()) for stage in recipe.stages}
    seconds = {name: mark["seconds"] for name, mark in done.items()}
    results = {
        "scores": scores_by_source(judged),
        "blank_scores": scores_by_source(blank),
        "singles": {name: scores["mean"] for name, scores in singles.items()},
        "average": average["mean"],
        "resolution": resolution,
        "questions": {source: sum(item.question.source == source for item in judged) for source in scorer.sources},
        "metrics": _metric_names(judged),
        "train_s": sum(seconds[stage.name] for stage in recipe.stages if stage.average is None),
        "total_s": data_s + sum(seconds.values()) + time.perf_counter() - start,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_answer_record(item), ensure_ascii=False) + "\n" for item in judged)
    return write_report(
        {**results, "singles": singles, "average": average},
        stages=[
            StageCurves(stage.name, read_metrics(out / stage.name / "csv" / "metrics.csv"))
            for stage in recipe.stages
            if stage.average is None
        ],
        samples=_cards(judged),
        settings=_settings(recipe, seconds),
        out=out,
    )


def _search(scorer: Scorer, test: Sequence[Question]) -> dict[str, Any]:
    """One pick for the mean over all sources, made on validation questions and reported on test questions."""
    report = scorer.report

    def samples(split: str, questions: Sequence[Question]) -> list[SearchSample]:
        made = [
            question_sample(question, benchmark="mean", max_new_tokens=report.max_new_tokens, stratum=question.source)
            for question in questions
        ]
        return [replace(sample, key=f"{split} {number} {sample.key}") for number, sample in enumerate(made)]

    model = load_scorer(scorer.out / report.final / "model", batch_size=96)
    found = search_resolution(
        samples("validation", scorer.questions("validation", report.selection_questions)),
        samples("test", test),
        budgets=[(low, high) for low, high in report.budgets],
        score=model,
        grid_of=model.grid_of,
        batch_size=96,
    )["mean"]
    return {
        "selection_split": "validation",
        "grid": [_point(point) for point in found.grid],
        "default": _point(found.default),
        "chosen": _point(found.chosen),
    }


def _point(point: BudgetScore) -> dict[str, Any]:
    tested = {} if point.report is None else {"test_score": point.report.score}
    return {
        "min_pixels": point.min_pixels,
        "max_pixels": point.max_pixels,
        "selection_score": point.selection.score,
        "mean_visual_tokens": point.mean_visual_tokens,
        **tested,
    }


def _metric_names(judged: Sequence[Judged]) -> dict[str, str]:
    names: dict[str, dict[str, None]] = {}
    for item in judged:
        names.setdefault(item.question.source, {})[METRIC_NAMES[item.question.metric]] = None
    return {source: ", ".join(found) for source, found in names.items()}


def _answer_record(item: Judged) -> dict[str, Any]:
    question = item.question
    return {
        "key": question.key,
        "source": question.source,
        "question": question.text,
        "answer": question.answer,
        "prediction": item.prediction,
        "metric": question.metric,
        "score": item.score,
        "visual_tokens": item.visual_tokens,
    }


def _cards(judged: Sequence[Judged]) -> list[SampleCard]:
    """The first few pictures of each family, right or wrong as they come."""
    shown: dict[str, int] = {}
    cards = []
    for item in judged:
        question = item.question
        shown[question.source] = shown.get(question.source, 0) + 1
        if shown[question.source] <= CARDS_PER_SOURCE:
            picture = question.files[0]
            cards.append(
                SampleCard(question.source, picture, question.text, question.answer, item.prediction, item.score)
            )
    return cards


def _settings(recipe: Recipe, seconds: dict[str, float]) -> dict[str, Any]:
    import lightning
    import torch
    import transformers

    import mindvl
    from mindvl.device import best_precision, device_name

    stages = [
        {
            "name": stage.name,
            "phase": (stage.phase or "average").rsplit(".", 1)[-1],
            "sequence_length": stage.sequence_length,
            "steps": stage.steps,
            "seconds": seconds[stage.name],
            "start_from": stage.average or stage.start_from,
        }
        for stage in recipe.stages
    ]
    rendered = json.loads((Path(recipe.out) / "data" / "render.json").read_text())
    return {
        "device": device_name(),
        "precision": recipe.trainer.get("precision") or best_precision(),
        "versions": {
            "mindvl": mindvl.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "transformers": transformers.__version__,
        },
        "seed": recipe.seed,
        "recipe": fingerprint(asdict(recipe)),
        "stages": stages,
        "samples": {"rendered": rendered["samples"]},
    }
