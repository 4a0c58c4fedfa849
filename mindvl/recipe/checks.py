"""What a recipe must agree on with itself before anything runs: a typing error shows now, not after half an hour."""

from __future__ import annotations

from collections.abc import Iterable

from mindvl.recipe.recipe import Recipe, Stage, Study


def check_recipe(recipe: Recipe) -> None:
    """Each stage names earlier stages and known mixtures; report and study name stages. Raises ValueError."""
    done: list[str] = []
    for stage in recipe.stages:
        _check_stage(recipe, stage, done)
        done.append(stage.name)
    if recipe.train_samples_ratio <= 0:
        raise ValueError(f"train_samples_ratio is {recipe.train_samples_ratio}, not above 0")
    if recipe.report is None and recipe.study is None:
        raise ValueError("key report or study is missing: nothing would be scored")
    if recipe.report is not None:
        report = recipe.report
        _check_names("report", [report.final, report.average, *report.singles.values()], done)
        _check_budgets("report", report.budgets)
    if recipe.study is not None:
        _check_study(recipe, recipe.study, done)


def _check_stage(recipe: Recipe, stage: Stage, done: list[str]) -> None:
    where = f"stage {stage.name}"
    if stage.name in done:
        raise ValueError(f"{where} is there twice")
    if (stage.phase is None) == (stage.average is None):
        raise ValueError(f"{where} needs either `phase` or `average`")
    for name in [*(stage.average or []), *([stage.start_from] if stage.start_from else [])]:
        if name not in done:
            raise ValueError(f"{where} builds on {name}, which is no earlier stage; earlier are {done}")
    if stage.greedy and (stage.average is None or recipe.study is None):
        raise ValueError(f"{where} is greedy, which needs `average` and a `study` whose score decides")
    if stage.phase is None:
        return
    for key in ("mixture", "sequence_length", "steps"):
        if getattr(stage, key) is None:
            raise ValueError(f"{where} lacks {key}")
    if stage.mixture not in recipe.mixtures:
        raise ValueError(f"{where} names mixture {stage.mixture}; known are {', '.join(recipe.mixtures)}")
    if stage.pixels is not None:
        _check_budgets(where, [stage.pixels], key="pixels")


def _check_study(recipe: Recipe, study: Study, done: list[str]) -> None:
    _check_names("study", study.rows, done)
    for name in study.rows:
        for member in recipe.stage(name).average or []:
            if member not in study.rows:
                raise ValueError(f"study.rows has {name} but not its member {member}, which it is compared with")
    if not any(study.families.values()):
        raise ValueError("study.families is empty; it needs a group of sources")
    named = [source for sources in study.families.values() for source in sources]
    for source in named:
        if named.count(source) > 1:
            raise ValueError(f"study.families names {source} {named.count(source)} times")
    _check_budgets("study", study.budgets)


def _check_names(where: str, names: Iterable[str], done: list[str]) -> None:
    for name in names:
        if name not in done:
            raise ValueError(f"{where} names stage {name}; the recipe has {', '.join(done)}")


def _check_budgets(where: str, budgets: list[list[int]], *, key: str = "budgets") -> None:
    name = f"{where}.{key}"
    if not budgets:
        raise ValueError(f"{name} is empty; it needs at least the default [min_pixels, max_pixels]")
    for budget in budgets:
        if len(budget) != 2:
            raise ValueError(f"{name} has {budget}, which is not [min_pixels, max_pixels]")
        low, high = budget
        if low > high:
            raise ValueError(f"{name} has min_pixels {low}, more than its max_pixels {high}")
