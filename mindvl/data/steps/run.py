"""Runs a recipe: units, decisions, shards, report. `recipe.json` appears last, when everything else is there.

    OUT/train/captions-000000.tar ...     OUT/report.md     OUT/report.json     OUT/recipe.json

Two passes. In the first each unit makes its samples and passes them through the steps (`unit`); its survivors lie in
OUT/.work until the corpus steps have spoken (`decide`). The second copies who stays into shards of equal size, source
by source. So the disk holds the data twice for a while, and memory never more than signatures and counts.

A run that was interrupted goes on: units that were done are not done again. A finished output of the same recipe is
left as it is, one of another recipe is refused, and one of a trial may always be replaced.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl import __version__
from mindvl.data.steps.decide import UnitFates, settle
from mindvl.data.steps.recipe import SPLITS, DataRecipe
from mindvl.data.steps.report import build_report, to_markdown
from mindvl.data.steps.runners import check_runner, in_order, open_runner
from mindvl.data.steps.sources import sources_version, units_of
from mindvl.data.steps.table import check_installed
from mindvl.data.steps.unit import UnitJob, do_unit, load_fates
from mindvl.data.storage import write_whole


@dataclass(frozen=True)
class ShardsJob:
    """All shards of one source and split: the survivors of some units, in order."""

    out: Path
    source: str
    samples_per_shard: int
    units: tuple[Path, ...]
    keep: tuple[frozenset[str], ...]


def run_recipe(
    recipe: DataRecipe, *, workers: int | None = None, runner: str = "local", overwrite: bool = False
) -> dict[str, Any]:
    """Makes what a recipe describes; returns its report (see `report.build_report`).

    Raises ValueError for an output of another recipe unless `overwrite`, and for whatever is wrong with data or steps.
    """
    check_runner(runner)
    fingerprint = recipe.fingerprint(sources_version(recipe))
    done = read_json(recipe.out / "recipe.json")
    if done is not None and done["fingerprint"] == fingerprint and not overwrite:
        print(f"{recipe.out}: the samples of recipe {fingerprint} are already there", file=sys.stderr)
        return json.loads((recipe.out / "report.json").read_text())
    for call in [*recipe.steps, *(call for source in recipe.sources for call in source.steps)]:
        check_installed(call.name)
    _check_output(recipe, fingerprint, done, overwrite=overwrite)
    work = _open_work(recipe, fingerprint)
    jobs = [UnitJob(recipe, unit, work) for unit in units_of(recipe)]
    with open_runner(runner, workers=workers) as run:
        in_order(run(do_unit, jobs), len(jobs), title="making samples")
        fates = [UnitFates(job.unit, load_fates(job)) for job in jobs]
        settle(recipe, fates)
        copies = _shards_jobs(recipe, jobs, fates, work)
        written = in_order(run(write_shards, copies), len(copies), title="writing shards")
    shards = [{"path": path, "samples": samples} for paths in written for path, samples in paths]
    report = build_report(recipe, fingerprint, fates, shards)
    _publish(recipe, work, report)
    return report


def write_shards(job: ShardsJob) -> list[tuple[str, int]]:
    """Copies survivors into shards; returns (path under OUT, samples) of each. Runs in a worker process."""
    from mindvl.data.reader import read_samples
    from mindvl.data.shard_writer import ShardWriter

    with ShardWriter(job.out, job.source, samples_per_shard=job.samples_per_shard) as writer:
        counts: Counter[int] = Counter()
        for path, keep in zip(job.units, job.keep, strict=True):
            for sample in read_samples(str(path)):
                if sample.key in keep:
                    writer.write(sample)
                    counts[len(writer.paths)] += 1  # a full shard has joined the paths before this sample was written
    return [(f"{job.out.name}/{path.name}", counts[number]) for number, path in enumerate(writer.paths)]


def _shards_jobs(recipe: DataRecipe, jobs: list[UnitJob], fates: list[UnitFates], work: Path) -> list[ShardsJob]:
    found = []
    for source in recipe.sources:
        for split in SPLITS:
            units, keep = [], []
            for job, item in zip(jobs, fates, strict=True):
                if (job.unit.source, job.unit.split) == (source.name, split):
                    stayed = frozenset(fate.key for fate in item.fates if fate.dropped_at is None)
                    if stayed:
                        units.append(job.shard_path)
                        keep.append(stayed)
            if units:
                out = work / "shards" / split
                found.append(ShardsJob(out, source.name, recipe.samples_per_shard, tuple(units), tuple(keep)))
    return found


def _check_output(recipe: DataRecipe, fingerprint: str, done: dict[str, Any] | None, *, overwrite: bool) -> None:
    """Shards that are not this recipe's own, or a trial's, are not replaced unasked."""
    if overwrite or (done is not None and done["trial"]):
        return
    if done is not None:
        raise ValueError(
            f"{recipe.out} was made by recipe {done['fingerprint']}, this one is {fingerprint} (the recipe, the number "
            "of samples or a source's files differ): choose another `out` or overwrite"
        )
    work = read_json(recipe.out / ".work" / "recipe.json")
    strays = _shards_in(recipe.out)
    if strays and (work is None or work["fingerprint"] != fingerprint):
        raise ValueError(
            f"{recipe.out} holds {len(strays)} shards of something else, such as {strays[0]}: choose another `out` or "
            "overwrite"
        )


def _open_work(recipe: DataRecipe, fingerprint: str) -> Path:
    """The work folder, empty unless an interrupted run of the same recipe has left it."""
    work = recipe.out.absolute() / ".work"
    left = read_json(work / "recipe.json")
    if left is None or left["fingerprint"] != fingerprint:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "recipe.json", {"fingerprint": fingerprint})
    shutil.rmtree(work / "shards", ignore_errors=True)
    return work


def _publish(recipe: DataRecipe, work: Path, report: dict[str, Any]) -> None:
    """Moves finished shards to their places; what an earlier recipe has left there goes first."""
    out = recipe.out
    (out / "recipe.json").unlink(missing_ok=True)
    for path in _shards_in(out):
        for beside in (path, *path.parent.glob(f"{path.name}.*")):  # the index of a shard goes with it
            beside.unlink()
    for split in SPLITS:
        for path in sorted((work / "shards" / split).glob("*.tar")):
            (out / split).mkdir(exist_ok=True)
            path.replace(out / split / path.name)
    write_json(out / "report.json", report)
    (out / "report.md").write_text(to_markdown(report), encoding="utf-8")
    settings = {"fingerprint": report["fingerprint"], "trial": recipe.samples, "version": __version__}
    write_json(out / "recipe.json", {**settings, "recipe": recipe.settings()})
    shutil.rmtree(work)


def _shards_in(out: Path) -> list[Path]:
    return [path for split in SPLITS for path in sorted((out / split).glob("*.tar"))]


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(str(path), json.dumps(content, indent=1, ensure_ascii=False, default=str).encode())
