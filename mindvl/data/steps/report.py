"""What became of every sample: per source and step, samples in and out and why they were dropped; then what is there.

| source   | step               | in   | out  | dropped                                        |
|----------|--------------------|------|------|------------------------------------------------|
| captions | read               | 2000 | 2000 |                                                |
| captions | duplicate_pictures | 2000 | 1994 | 6 looks like an earlier picture (captions-...) |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mindvl import __version__
from mindvl.data.steps.decide import UnitFates
from mindvl.data.steps.recipe import SPLITS, DataRecipe
from mindvl.data.steps.unit import READ, Fate

SHOWN_KEYS = 3
_QUANTILES = {"min": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "max": 1.0}


def build_report(
    recipe: DataRecipe, fingerprint: str, done: list[UnitFates], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The whole account as plain values; the same for any number of workers and for both runners."""
    sources = {}
    for source in recipe.sources:
        mine = [item for item in done if item.unit.source == source.name]
        names = ["read", *(call.name for call in recipe.steps_of(source))]
        sources[source.name] = {
            "category": source.category,
            "absent": None if mine else str(source.settings["path"]),
            "steps": _steps(names, [fate for item in mine for fate in item.fates]) if mine else [],
        }
    kept = [(item.unit, fate) for item in done for fate in item.fates if fate.dropped_at is None]
    categories = {source.name: source.category for source in recipe.sources}
    groups = [(split, categories[unit.source], fate) for split in SPLITS for unit, fate in kept if unit.split == split]
    return {
        "fingerprint": fingerprint,
        "version": __version__,
        "trial": recipe.samples,
        "samples": len(kept),
        "sources": sources,
        "splits": {split: _totals(f for s, _, f in groups if s == split) for split in SPLITS},
        "train_categories": {
            name: _totals(f for s, c, f in groups if (s, c) == ("train", name))
            for name in sorted({*categories.values()})
        },
        "picture_pixels": _picture_quantiles([fate for _, fate in kept]),
        "shards": shards,
    }


def _steps(names: list[str], fates: list[Fate]) -> list[dict[str, Any]]:
    given, rows = len(fates), []
    for place, name in enumerate(names, READ):
        dropped: dict[str, dict[str, Any]] = {}
        for fate in fates:
            if fate.dropped_at == place:
                entry = dropped.setdefault(fate.reason, {"samples": 0, "examples": []})
                entry["samples"] += 1
                if len(entry["examples"]) < SHOWN_KEYS:
                    entry["examples"].append(fate.key)
        left = given - sum(entry["samples"] for entry in dropped.values())
        rows.append({"step": name, "in": given, "out": left, "dropped": dict(sorted(dropped.items()))})
        given = left
    return rows


def _totals(fates: Iterable[Fate]) -> dict[str, Any]:
    fates = list(fates)
    text_only = sum(not fate.picture_sizes for fate in fates)
    return {
        "samples": len(fates),
        "pictures": sum(len(fate.picture_sizes) for fate in fates),
        "picture_bytes": sum(fate.picture_bytes for fate in fates),
        "mean_chars": round(sum(fate.chars for fate in fates) / len(fates), 1) if fates else 0.0,
        "text_only_ratio": round(text_only / len(fates), 4) if fates else 0.0,
    }


def _picture_quantiles(fates: list[Fate]) -> dict[str, dict[str, int]]:
    sizes = np.array([size for fate in fates for size in fate.picture_sizes], np.int64).reshape(-1, 2)
    if not len(sizes):
        return {}
    return {
        side: {name: int(np.quantile(column, at, method="lower")) for name, at in _QUANTILES.items()}
        for side, column in (("height", sizes[:, 0]), ("width", sizes[:, 1]))
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report for reading; `report.json` holds the same."""
    trial = f", a trial of at most {report['trial']} samples a source and split" if report["trial"] else ""
    lines = [f"# Data recipe {report['fingerprint']}", "", f"{report['samples']} samples{trial}.", ""]
    absent = {name: source["absent"] for name, source in report["sources"].items() if source["absent"]}
    if absent:
        lines += ["Left out, since they are not there:", "", *(f"- {n}: `{path}`" for n, path in absent.items()), ""]
    columns = ["samples", "pictures", "MB of pictures", "mean characters", "text-only"]
    lines += ["## What is there", ""]
    groups = {f"**{split}**": totals for split, totals in report["splits"].items() if totals["samples"]}
    groups |= {f"train: {name}": totals for name, totals in report["train_categories"].items() if totals["samples"]}
    lines += _table(["", *columns], [[name, *_shown(totals)] for name, totals in groups.items()])
    if report["picture_pixels"]:
        names = list(_QUANTILES)
        rows = [[side, *(str(sizes[name]) for name in names)] for side, sizes in report["picture_pixels"].items()]
        lines += ["", "## Sizes of pictures, in pixels", "", *_table(["", *names], rows)]
    lines += ["", "## What the steps did", "", *_table(["source", "step", "in", "out", "dropped"], step_rows(report))]
    return "\n".join(lines) + "\n"


def step_rows(report: dict[str, Any], *, only_drops: bool = False) -> list[list[str]]:
    """Rows of (source, step, in, out, dropped); `only_drops` leaves out steps that everything has passed."""
    rows = []
    for name, source in report["sources"].items():
        for step in source["steps"]:
            if step["dropped"] or not only_drops:
                said = "; ".join(
                    f"{entry['samples']} {reason} ({', '.join(entry['examples'])})"
                    for reason, entry in step["dropped"].items()
                )
                rows.append([name, step["step"], str(step["in"]), str(step["out"]), said.replace("|", "/")])
    return rows


def print_report(report: dict[str, Any]) -> None:
    """A short form on stdout: per source what came in, what stayed and why the rest went; then the splits."""
    for name, source in report["sources"].items():
        if source["absent"]:
            print(f"{name:<20} left out: {source['absent']} is not there")
            continue
        print(f"{name:<20} {source['steps'][0]['in']:>9} in {source['steps'][-1]['out']:>9} out")
        for step in source["steps"]:
            for reason, entry in step["dropped"].items():
                example = entry["examples"][0]
                print(f"    {step['step']:<20} {entry['samples']:>7} dropped: {reason}, such as {example}")
    for split, totals in report["splits"].items():
        if totals["samples"]:
            samples, pictures, megabytes, chars, text_only = _shown(totals)
            print(
                f"{split:<11} {samples} samples, {pictures} pictures of {megabytes} MB, {chars} characters a sample, "
                f"{text_only} text-only"
            )


def _shown(totals: dict[str, Any]) -> list[str]:
    megabytes, share = totals["picture_bytes"] / 1e6, 100 * totals["text_only_ratio"]
    shown = [f"{megabytes:.1f}", f"{totals['mean_chars']:.0f}", f"{share:.1f} %"]
    return [str(totals["samples"]), str(totals["pictures"]), *shown]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
