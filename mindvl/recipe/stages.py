"""The links of a chain, each run once: a finished stage is passed over, an interrupted one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from mindvl.recipe.recipe import Recipe, Stage, fingerprint


def prepare(recipe: Recipe) -> float:
    """Draw the pictures and save the tokenizer, unless that is done already; returns the seconds it has taken."""
    import yaml

    from mindvl.data.render.writer import render
    from mindvl.data.tokenizer import byte_tokenizer, load_tokenizer, tokenizer_fingerprint

    config = Path(recipe.data)
    if not config.is_file():
        raise ValueError(f"data config {config} is not a file")
    folder = Path(recipe.out) / "data"
    start = time.perf_counter()
    drawn = yaml.safe_load(config.read_text(encoding="utf-8"))
    if recipe.train_samples_ratio != 1.0:
        for source in drawn["sources"].values():
            source["train"] = round(source["train"] * recipe.train_samples_ratio)
    render(drawn, folder)
    mark = folder / "seconds.json"
    if not mark.is_file():
        mark.write_text(json.dumps(time.perf_counter() - start))
    tokenizer, saved = byte_tokenizer(recipe.tokenizer.get("words", "").split()), Path(recipe.out) / "tokenizer"
    if saved.is_dir():
        before, now = tokenizer_fingerprint(load_tokenizer(saved)), tokenizer_fingerprint(tokenizer)
        if before != now:
            raise ValueError(
                f"{saved} was made of other words ({before}, now {now}), and models learnt its tokens: "
                "choose another `out`"
            )
    tokenizer.save_pretrained(saved)
    return json.loads(mark.read_text())


def run_stage(recipe: Recipe, stage: Stage, number: int) -> None:
    """Run one stage to its end; `done.json` in its folder says that it is."""
    folder = Path(recipe.out) / stage.name
    mark, wanted = folder / "done.json", stage_fingerprint(recipe, stage)
    if mark.is_file():
        done = json.loads(mark.read_text())
        if done["fingerprint"] != wanted:
            raise ValueError(
                f"stage {stage.name} in {recipe.out} was finished with other settings ({done['fingerprint']}, now "
                f"{wanted}): choose another `out`, or delete {folder} and the stages that build on it"
            )
        print(f"[{number}/{len(recipe.stages)}] {stage.name}: finished before, {done['seconds']:.0f} s", flush=True)
        return
    print(f"[{number}/{len(recipe.stages)}] {stage.name}: {_describe(stage)}", flush=True)
    start = time.perf_counter()
    if stage.average is not None:
        _average(recipe, stage.average, folder / "model", greedy=stage.greedy)
    else:
        _fit(fit_config(recipe, stage), folder)
    seconds = time.perf_counter() - start
    mark.write_text(json.dumps({"fingerprint": wanted, "seconds": seconds}) + "\n")


def stage_fingerprint(recipe: Recipe, stage: Stage) -> str:
    """Hash of a stage's settings and of the stages that it builds on."""
    before = [recipe.stage(name) for name in (stage.average or []) + ([stage.start_from] if stage.start_from else [])]
    own: Any = fit_config(recipe, stage) if stage.average is None else stage.average
    if stage.greedy:
        study = recipe.asked_study()
        decides = (study.families, study.budgets[0], study.selection_questions, study.max_new_tokens)
        own = ["greedy", stage.average, decides]
    return fingerprint(own, [stage_fingerprint(recipe, earlier) for earlier in before])


def fit_config(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """The stage as a config of `mindvl fit`."""
    out = Path(recipe.out)
    model = {**recipe.model, "tokenizer": str(out / "tokenizer")}
    if stage.start_from is not None:
        model["start_from"] = str(out / stage.start_from / "model")
    if stage.pixels is not None:
        model["min_pixels"], model["max_pixels"] = stage.pixels
    seed = recipe.seed if stage.seed is None else stage.seed
    phase_args = {"model": model, "rates": stage.rates, **stage.phase_args}
    sources = {
        split: {
            name: {"shards": str(out / "data" / split / f"{name}-*.tar"), "weight": weight}
            for name, weight in recipe.mixture_of(stage).items()
        }
        for split in ("train", "validation")
    }
    data_args = {**recipe.data_args, **sources, "sequence_length": stage.sequence_length, "seed": seed}
    return {
        "seed_everything": seed,
        "model": {"class_path": stage.phase, "init_args": phase_args},
        "data": {"class_path": "mindvl.data.module.PackedShards", "init_args": data_args},
        "trainer": {
            **recipe.trainer,
            "default_root_dir": str(out / stage.name),
            "max_steps": stage.steps,
            "accumulate_grad_batches": stage.accumulate,
            # Validation runs once, after the last step.
            "val_check_interval": (stage.steps or 0) * stage.accumulate,
            "check_val_every_n_epoch": None,
        },
    }


def _average(recipe: Recipe, members: list[str], model: Path, *, greedy: bool) -> None:
    """The mean of earlier stages' models, or their greedy soup by the study's score on its selection split."""
    models = [Path(recipe.out) / name / "model" for name in members]
    if not greedy:
        from mindvl.cli.average import average_models

        average_models(models, model)
        return
    from mindvl_callbacks import greedy_soup

    from mindvl.recipe.study_scores import StudyScorer

    greedy_soup(models, model, score=StudyScorer(recipe).selection_score, overwrite=True)


def _fit(config: dict[str, Any], folder: Path) -> None:
    import yaml

    from mindvl.cli.lightning_cli import run_lightning

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fit.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    run_lightning(["fit", "--config", str(file)])


def _describe(stage: Stage) -> str:
    if stage.average is not None:
        return f"{'the greedy soup' if stage.greedy else 'the mean'} of {', '.join(stage.average)}"
    phase = (stage.phase or "").rsplit(".", 1)[-1]
    start = f" from {stage.start_from}" if stage.start_from else ""
    return f"{phase}{start}, {stage.steps} steps of {stage.accumulate} x {stage.sequence_length} tokens"
