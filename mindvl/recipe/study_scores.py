"""What a study knows of each model: its score on every question, at the default and at the searched resolution.

The validation split picks, the test split reports. Of 60 validation and 150 test questions of a family `table`:

    validation   (784, 313600) 0.40, the default   (784, 15680) 0.45   (15680, 313600) 0.38
    picked       (784, 15680)
    test         150 scores at the default, 150 at the pick

Budgets that resize a picture to the same grid are one score. Scores are kept under OUT/scores by the hash of the
weights, so a study that was interrupted goes on, and the trial means of a greedy soup are not asked again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import xxhash
from mindvl_callbacks import ScoreCache, search_resolution
from mindvl_callbacks.resolution_bootstrap import mean_of_strata
from mindvl_callbacks.resolution_samples import Budget, SearchSample
from mindvl_callbacks.resolution_scores import ScoreTable

from mindvl.cli.resolution_questions import question_sample
from mindvl.cli.resolution_scorer import load_scorer
from mindvl.data.questions import load_questions
from mindvl.recipe.recipe import Recipe, Stage

BATCH_SIZE = 96


@dataclass(frozen=True)
class FamilyScores:
    """A model on one family. Lists have one score, 0 to 1, per test question, in the same order for all models."""

    picked: Budget
    moved: bool
    """Whether the pick is another budget than the default."""
    selection_default: float
    selection_searched: float
    default: list[float]
    searched: list[float]
    default_tokens: float
    """Mean visual tokens of a test question's pictures."""
    searched_tokens: float


@dataclass(frozen=True)
class Row:
    """A model of the study."""

    stage: str
    members: list[str]
    """Stages that an average is made of, or could be; none for a fit."""
    kept: list[str]
    """Members that a greedy soup took; all of a plain mean."""
    families: dict[str, FamilyScores]


class StudyScorer:
    """Scores saved models on the questions of a recipe's study."""

    def __init__(self, recipe: Recipe):
        self.study, self.out = recipe.asked_study(), Path(recipe.out)
        self.families = [source for sources in self.study.families.values() for source in sources]
        self.budgets: list[Budget] = [(low, high) for low, high in self.study.budgets]

    @cached_property
    def selection(self) -> list[SearchSample]:
        """Questions that resolutions and greedy soups are picked on."""
        return self._samples("validation", self.study.selection_questions)

    @cached_property
    def report(self) -> list[SearchSample]:
        """Questions of which all figures are."""
        return self._samples("test", self.study.questions)

    def selection_score(self, model: Path) -> float:
        """Mean over families at the default resolution on the selection split, 0 to 1."""
        scorer = load_scorer(model, batch_size=BATCH_SIZE)
        table = ScoreTable(scorer, scorer.grid_of, batch_size=BATCH_SIZE, cache=self._cache(model))
        table.fill(self.selection, self.budgets[:1])
        families = [sample.benchmark for sample in self.selection]
        return mean_of_strata(table.scores(self.selection, self.budgets[0]), families)

    def row(self, stage: Stage) -> Row:
        """All that the study says of a finished stage's model."""
        model = self.out / stage.name / "model"
        scorer, cache = load_scorer(model, batch_size=BATCH_SIZE), self._cache(model)
        settings = {"budgets": self.budgets, "batch_size": BATCH_SIZE, "cache": cache}
        found = search_resolution(self.selection, self.report, score=scorer, grid_of=scorer.grid_of, **settings)
        table = ScoreTable(scorer, scorer.grid_of, cache=cache)  # the search has left all scores in the cache
        families = {}
        for family in self.families:
            result = found[family]
            picked = (result.chosen.min_pixels, result.chosen.max_pixels)
            mine = [sample for sample in self.report if sample.benchmark == family]
            families[family] = FamilyScores(
                picked,
                picked != self.budgets[0],
                result.default.selection.score,
                result.chosen.selection.score,
                table.scores(mine, self.budgets[0]),
                table.scores(mine, picked),
                table.mean_visual_tokens(mine, self.budgets[0]),
                table.mean_visual_tokens(mine, picked),
            )
        return Row(stage.name, stage.average or [], _kept(stage, model), families)

    def _samples(self, split: str, limit: int) -> list[SearchSample]:
        """The first `limit` questions with pictures of each family; a family without any is refused."""
        samples: list[SearchSample] = []
        for family in self.families:
            shards = self.out / "data" / split / f"{family}-*.tar"
            asked = [question for question in load_questions(family, shards, limit=limit) if question.images]
            if len(asked) < 2:
                raise ValueError(f"family {family} has {len(asked)} {split} questions with pictures, fewer than 2")
            for number, question in enumerate(asked):
                sample = question_sample(question, benchmark=family, max_new_tokens=self.study.max_new_tokens)
                samples.append(replace(sample, key=f"{split} {number:05d} {sample.key}"))
        return samples

    def _cache(self, model: Path) -> ScoreCache:
        return ScoreCache(self.out / "scores", weights_fingerprint(model, self.study.max_new_tokens))


def weights_fingerprint(model: Path, *settings: object) -> str:
    """Hash of a saved model's weights alone: a soup of one member is that member, whatever its record says."""
    digest = xxhash.xxh3_128(json.dumps(settings).encode())
    for file in sorted(model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _kept(stage: Stage, model: Path) -> list[str]:
    if not stage.greedy:
        return list(stage.average or [])
    record = json.loads((model / "averaging.json").read_text(encoding="utf-8"))
    return [Path(trial["path"]).parent.name for trial in record["trials"] if trial["kept"]]
