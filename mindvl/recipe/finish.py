"""The end of a recipe: scores, the average against its parts, the resolution search, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindvl_callbacks.resolution_search import search_resolution

from mindvl.data.questions import Question, load_questions
from mindvl.phases.answering import load_answerer
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
        self.sources = list(recipe.mixture_of(recipe.stage(recipe.report.final)))

    def questions(self, split: str, limit: int) -> list[Question]:
        """The first `limit` questions of each source that has pictures."""
        asked: list[Question] = []
        for source in self.sources:
            found = load_questions(source, self.out / "data" / split / f"{source}-*.tar", limit=limit)
            asked.extend(question for question in found if question.images)
        return asked

    def judge(self, stage: str, questions: Sequence[Question], *, budget: Sequence[int] | None = None) -> list[Judged]:
        """Judged answers of a stage's model, at a pixel budget or at its own."""
        low, high = budget or self.recipe.report.budgets[0]
        answerer = load_answerer(self.out / stage / "model", min_pixels=low, max_pixels=high)
        return evaluate(answerer, questions, max_new_tokens=self.recipe.report.max_new_tokens)


def finish(recipe: Recipe, *, data_s: float) -> Path:
    """Score, search, write `results.json`, `answers.jsonl` and `report.html`; returns the report's path."""
    start = time.perf_counter()
    report, scorer, out = recipe.report, Scorer(recipe), Path(recipe.out)
    test = scorer.questions("test", report.questions)
    print(f"scoring {len(test)} test questions of {len(scorer.sources)} families", flush=True)
    judged = scorer.judge(report.final, test)
    blank = scorer.judge(report.final, [question.blanked() for question in test])
    fewer = scorer.questions("test", report.singles_questions)
    singles = {name: scores_by_source(scorer.judge(stage, fewer)) for name, stage in report.singles.items()}
    average = scores_by_source(scorer.judge(report.average, fewer))
    resolution = _search(recipe, scorer, fewer)
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


def _search(recipe: Recipe, scorer: Scorer, test: Sequence[Question]) -> dict[str, Any]:
    report = recipe.report
    selection = scorer.questions("validation", report.selection_questions)

    def scored(questions: Sequence[Question]):
        def at(low: int, high: int) -> tuple[float, float]:
            judged = scorer.judge(report.final, questions, budget=(low, high))
            return scores_by_source(judged)["mean"], sum(item.visual_tokens for item in judged) / len(judged)

        return at

    found = search_resolution([(low, high) for low, high in report.budgets], scored(selection), scored(test))
    tested = asdict(found)
    grid = [{key: value for key, value in point.items() if value is not None} for point in tested["grid"]]
    return {"selection_split": "validation", **tested, "grid": grid}


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
            picture = question.images[0]
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
