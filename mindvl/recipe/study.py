"""The end of a recipe with a `study`: does averaging help, does the resolution search, and do they help together?

    study:
      rows: [short, long, mean]                                  # stages; each a line of the table
      families: {trained: [ocr, table], held out: [receipt]}     # a table for each group
      budgets: [[784, 313600], [784, 15680]]                     # the first is the default

writes OUT/study.json (all numbers), OUT/study.md (tables) and OUT/study.png. Every score is kept as it comes, so the
same command after an interruption asks only what was not asked yet, and ends with the same three files.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindvl.recipe.recipe import Recipe, fingerprint
from mindvl.recipe.study_figure import draw_study
from mindvl.recipe.study_scores import Row, StudyScorer
from mindvl.recipe.study_table import as_json, compare, markdown


def finish_study(recipe: Recipe) -> str:
    """Score every row, write the three files, and return the tables."""
    start = time.perf_counter()
    study, out, scorer = recipe.asked_study(), Path(recipe.out), StudyScorer(recipe)
    rows: list[Row] = []
    for number, name in enumerate(study.rows, start=1):
        print(f"[{number}/{len(study.rows)}] scoring {name} at {len(study.budgets)} resolutions", flush=True)
        rows.append(scorer.row(recipe.stage(name)))
    groups = {group: compare(rows, families) for group, families in study.families.items()}
    tables = [markdown(group, groups[group], num_families=len(study.families[group])) for group in groups]
    text = "\n\n".join([_head(recipe), *tables]) + "\n"
    record = {**_settings(recipe), "groups": {name: as_json(compared) for name, compared in groups.items()}}
    record["rows"] = [asdict(row) for row in rows]
    (out / "study.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / "study.md").write_text(text, encoding="utf-8")
    (out / "study.png").write_bytes(draw_study(groups))
    train_s, score_s = sum(record["fits_s"].values()), time.perf_counter() - start
    return (
        f"{text}\ntraining {train_s:.0f} s, scoring {score_s:.0f} s in this call\n"
        f"{out}/study.json has all numbers, study.md these tables, study.png the figure"
    )


def _head(recipe: Recipe) -> str:
    """What the tables hold, for a reader who sees nothing else."""
    low, high = recipe.asked_study().budgets[0]
    return (
        "# Averaging and resolution search\n\n"
        "Mean scores over families in per cent, with 95 % intervals over test questions; differences are paired by "
        "question. For each model and family the validation split picks the resolution, and the soups' members; the "
        f"test split reports. Default resolution: {low} to {high} pixels."
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What made the numbers, and the seconds of the fits."""
    import torch
    import transformers

    from mindvl import __version__
    from mindvl.device import best_precision, device_name

    out = Path(recipe.out)
    fits = [stage.name for stage in recipe.stages if stage.average is None]
    return {
        "recipe": fingerprint(asdict(recipe)),
        "study": asdict(recipe.asked_study()),
        "fits_s": {name: json.loads((out / name / "done.json").read_text())["seconds"] for name in fits},
        "device": device_name(),
        "precision": recipe.trainer.get("precision") or best_precision(),
        "versions": {"mindvl": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }
