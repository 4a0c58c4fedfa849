"""A run ends in one page that a stranger understands in ten seconds and a sceptic can check.

`write_report` turns numbers into `report.html`, a single file with all pictures inside, so that it can be mailed; the
curves are also saved beside it as `curves/*.png`. It computes no score: what it prints is what it was given, and a
missing number stops it by name before anything is written.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindvl.recipe import curves
from mindvl.recipe.curves import StageCurves

if TYPE_CHECKING:
    from jinja2 import Template

REQUIRED = (
    *("scores", "blank_scores", "singles", "average", "resolution"),
    *("questions", "metrics", "train_s", "total_s"),
)
BUDGET = ("min_pixels", "max_pixels")
PICTURE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class SampleCard:
    """One picture with what was asked about it, what is true, and what the model said."""

    family: str
    picture: bytes
    question: str
    answer: str
    prediction: str
    score: float

    @property
    def picture_uri(self) -> str:
        return data_uri(self.picture)


def write_report(
    results: dict[str, Any],
    *,
    stages: Sequence[StageCurves],
    samples: Sequence[SampleCard],
    settings: dict[str, Any],
    out: Path,
) -> Path:
    """Write `report.html` and `curves/*.png` into the folder `out` and return the page's path.

    Scores lie between 0 and 1. A value of `singles`, and `average`, is a mean score, or the scores of all families with
    a `mean` among them. Any key of `settings` may be missing; a key missing from `results` raises ValueError.
    """
    check(results)
    families = _families(results["scores"])
    checkpoints = {name: _with_mean(scores) for name, scores in results["singles"].items()}
    best = max(checkpoints, key=lambda name: checkpoints[name]["mean"], default=None)
    checkpoints["average"] = _with_mean(results["average"])
    drawn = {
        "averaging": curves.draw_averaging({name: scores["mean"] for name, scores in checkpoints.items()}),
        "resolution": curves.draw_resolution(results["resolution"]),
    }
    if stages:
        drawn |= {"loss": curves.draw_loss(stages), "fill": curves.draw_fill(stages)}
        if (throughput := curves.draw_throughput(stages)) is not None:
            drawn["throughput"] = throughput
    grouped: dict[str, list[SampleCard]] = {}
    for card in samples:
        grouped.setdefault(card.family, []).append(card)
    page = _template().render(
        results=results,
        families=families,
        num_questions=sum(results["questions"][family] for family in families),
        checkpoints=checkpoints,
        best=best,
        averaged_families=list(dict.fromkeys(name for scores in checkpoints.values() for name in _families(scores))),
        budgets=budget_rows(results["resolution"]),
        curves={name: data_uri(png) for name, png in drawn.items()},
        samples=grouped,
        settings=settings,
    )
    folder = out / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        (folder / f"{name}.png").write_bytes(png)
    report = out / "report.html"
    report.write_text(page, encoding="utf-8")
    return report


def check(results: Mapping[str, Any]) -> None:
    """Raise ValueError that names what the report needs and `results` does not have."""
    _require(results, REQUIRED, "results")
    families = _families(results["scores"])
    for name in ("scores", "blank_scores"):
        _require(results[name], (*families, "mean"), f"results[{name!r}]")
    for name in ("questions", "metrics"):
        _require(results[name], families, f"results[{name!r}]")
    resolution = results["resolution"]
    _require(resolution, ("selection_split", "grid", "default", "chosen"), "results['resolution']")
    for name in ("default", "chosen"):
        _require(resolution[name], (*BUDGET, "test_score"), f"results['resolution'][{name!r}]")
    for index, point in enumerate(resolution["grid"]):
        needed = (*BUDGET, "selection_score", "mean_visual_tokens")
        _require(point, needed, f"results['resolution']['grid'][{index}]")


def budget_rows(resolution: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The searched pixel budgets and the default, small to large; the two that were picked are marked in `picks`."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    points: list[tuple[Mapping[str, Any], list[str]]] = [(point, []) for point in resolution["grid"]]
    points += [(resolution[pick], [pick]) for pick in ("default", "chosen")]
    for point, picks in points:
        row = rows.setdefault((point["max_pixels"], point["min_pixels"]), {"picks": []})
        row |= point
        row["picks"] += picks
    return [rows[key] for key in sorted(rows)]


def data_uri(picture: bytes) -> str:
    """A PNG or JPEG as text that a page can hold."""
    for magic, kind in PICTURE_TYPES.items():
        if picture.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(picture).decode()}"
    raise ValueError(f"a picture begins with {picture[:4]!r}, which is neither PNG nor JPEG")


def duration(seconds: float) -> str:
    """412 -> "6 min 52 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def percent(ratio: float) -> str:
    """0.8534 -> "85.3"; the sign stands in the heading."""
    return f"{100 * ratio:.1f}"


def spread(score: float, questions: int) -> str:
    """Standard error in points of a mean over so many questions; no score between 0 and 1 can have a larger one."""
    return percent(math.sqrt(max(0.0, score * (1 - score)) / questions)) if questions else ""


def plain(value: object) -> str:
    """A setting as text: lists with commas, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for function in (percent, duration, plain, spread, curves.side_text, curves.length_text):
        environment.filters[function.__name__] = function
    return environment.get_template("report.html.j2")


def _families(scores: Mapping[str, float]) -> list[str]:
    return [name for name in scores if name != "mean"]


def _with_mean(scores: float | Mapping[str, float]) -> Mapping[str, float]:
    return scores if isinstance(scores, Mapping) else {"mean": scores}


def _require(mapping: Mapping[str, Any], keys: Iterable[str], name: str) -> None:
    missing = [key for key in keys if key not in mapping]
    if missing:
        present = ", ".join(map(repr, mapping)) or "nothing"
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}; it has {present}")
