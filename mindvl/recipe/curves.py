"""A run's numbers are read faster as pictures: loss, fill and speed over steps, scores as bars, resolution as a curve.

Each `draw_*` returns the bytes of one PNG and knows nothing of files or of the report, so a notebook can show it too:

    rows = read_metrics(Path("runs/quickstart/multitask_1024/metrics.csv"))    # [{"step": 9, "train/loss": 2.1}, ...]
    draw_loss([StageCurves("multitask_1024", rows)])

Stages keep one colour through all pictures. Colours are dark on white; the report's dark mode inverts the pictures, so
nothing here needs a second version. matplotlib is imported where it draws: it costs a command line half a second.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#3b5bdb", "#0c8599", "#2f9e44", "#e67700", "#d9480f", "#c2255c", "#862e9c", "#5c677d")
INK, FAINT, ACCENT = "#343a40", "#adb5bd", "#d9480f"
WIDTH_INCHES, DPI = 10.0, 160
SMOOTHING_POINTS_RATIO = 0.04  # the smooth curve averages over this share of a stage's points
PANELS_PER_ROW = 4
MAX_TICKS = 9


@dataclass(frozen=True)
class StageCurves:
    """What one stage logged: sparse rows, each with `step` and whichever numbers were logged there."""

    name: str
    metrics: list[dict[str, float]]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one number, without the rows that lack it or hold no finite value."""
        rows = [row for row in self.metrics if "step" in row and math.isfinite(row.get(key, math.nan))]
        return [row["step"] for row in rows], [row[key] for row in rows]


def read_metrics(csv_file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv as Lightning's CSVLogger writes it, without its empty cells."""
    with csv_file.open(newline="") as stream:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(stream)]


def side_text(num_pixels: float) -> str:
    """The square that has so many pixels: 50176 -> "224 x 224"."""
    side = round(math.sqrt(num_pixels))
    return f"{side} x {side}"


def length_text(name: str) -> str:
    """A sequence length as people say it: "512" -> "512 tokens"; other names stay."""
    return f"{name} tokens" if name.isdigit() else name


def draw_loss(stages: Sequence[StageCurves]) -> bytes:
    """One panel for each stage on one logarithmic scale: thin is each step, thick its running mean, dots validation."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = math.ceil(len(stages) / PANELS_PER_ROW)
    columns = math.ceil(len(stages) / rows)
    figure = _figure(2.3 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for index, panel in enumerate(panels.flat):
        if index >= len(stages):
            panel.set_visible(False)
            continue
        stage, color = stages[index], COLORS[index % len(COLORS)]
        steps, values = stage.series("train/loss")
        panel.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
        panel.plot(steps, _running_mean(values), color=color, linewidth=1.8)
        panel.plot(*stage.series("validation/loss"), "o", color=INK, markersize=4)
        panel.set_title(stage.name, color=color)
        if index + columns >= len(stages):
            panel.set_xlabel("optimizer step")
            panel.tick_params(labelbottom=True)
        if not values:
            panel.text(0.5, 0.5, "no loss logged", color=INK, ha="center", transform=panel.transAxes)
    if any(value > 0 for stage in stages for value in stage.series("train/loss")[1]):
        panels[0, 0].set_yscale("log")
        panels[0, 0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panels[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0, 0].yaxis.set_minor_formatter(NullFormatter())
    for row in panels:
        row[0].set_ylabel("loss per token")
    return _png(figure)


def draw_fill(stages: Sequence[StageCurves]) -> bytes:
    """How full the packs were, stage after stage: the rest is padding that is computed for nothing."""
    return _timeline(stages, [("train/pack_fill_ratio", "pack fill, %", 100.0)])


def draw_throughput(stages: Sequence[StageCurves]) -> bytes | None:
    """Tokens per second, and the share of the device's peak that the model's arithmetic reached; None if unlogged."""
    rows = [
        ("throughput/tokens_per_s", "tokens / s", 1.0),
        ("throughput/model_flops_ratio", "model FLOPs of peak, %", 100.0),
    ]
    logged = [row for row in rows if any(stage.series(row[0])[1] for stage in stages)]
    return _timeline(stages, logged) if logged else None


def draw_averaging(means: Mapping[str, float]) -> bytes:
    """A bar for each checkpoint's mean score, the average last, and a line at the best of the others."""
    *singles, _ = means
    figure = _figure(0.5 * len(means) + 0.9)
    axes = figure.subplots()
    colors = [FAINT] * len(singles) + [COLORS[0]]
    bars = axes.barh([length_text(name) for name in means], [100 * s for s in means.values()], color=colors, height=0.7)
    if singles:
        axes.axvline(100 * max(means[name] for name in singles), color=INK, linewidth=1, linestyle=":")
    # A white ground, because the line may run through the numbers.
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.bar_label(bars, fmt="%.1f", padding=5, fontweight="bold", color=INK, bbox=ground)
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="mean score, %")
    axes.grid(axis="y", visible=False)
    return _png(figure)


def draw_resolution(resolution: Mapping[str, Any]) -> bytes:
    """Mean score against the pixel budget on the selection split, the test scores there are, and the chosen budget."""
    figure = _figure(4.0)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    grid, chosen, default = resolution["grid"], resolution["chosen"], resolution["default"]
    floors = sorted({point["min_pixels"] for point in grid})
    # Floors often score alike, above all where the ceiling is high: rings of unlike size and shape show each of them,
    # and the test split's small diamonds lie within.
    for place, floor in enumerate(floors):
        color, marker = COLORS[place % len(COLORS)], "os^v"[place % 4]
        points = sorted((point for point in grid if point["min_pixels"] == floor), key=lambda p: p["max_pixels"])
        label = f"{resolution['selection_split']} split" + (f", at least {side_text(floor)}" if len(floors) > 1 else "")
        scores = [100 * point["selection_score"] for point in points]
        axes.plot(
            [p["max_pixels"] for p in points],
            scores,
            color=color,
            linewidth=1.8,
            linestyle=(0, (4, 2 * place)),
            marker=marker,
            markersize=9 + 4 * place,
            markerfacecolor="none",
            markeredgewidth=1.8,
            label=label,
            zorder=3,
        )
    tested = [point for point in (*grid, default, chosen) if "test_score" in point]
    places = sorted({(point["max_pixels"], 100 * point["test_score"]) for point in tested})
    axes.plot(*zip(*places, strict=True), "D", color=ACCENT, markersize=5, label="test split", zorder=4)
    axes.axvline(chosen["max_pixels"], color=ACCENT, linewidth=8, alpha=0.15, label="chosen", zorder=1)
    if default["max_pixels"] != chosen["max_pixels"]:
        axes.axvline(default["max_pixels"], color=INK, linewidth=1, linestyle=":", label="default", zorder=1)
    tokens = {point["max_pixels"]: f"\n{point['mean_visual_tokens']:.0f} tokens" for point in grid}
    ticks = sorted({point["max_pixels"] for point in (*grid, default, chosen)})
    ticks = ticks[:: math.ceil(len(ticks) / MAX_TICKS)]
    # With several floors a budget has no single token count; the table then has them all.
    labels = [side_text(tick) + (tokens.get(tick, "") if len(floors) == 1 else "") for tick in ticks]
    axes.set_xticks(ticks, labels, fontsize=8)
    axes.set_xticks([], minor=True)
    told = ", and mean visual tokens under it" if len(floors) == 1 else ""
    axes.set(xlabel=f"pixel budget of a picture{told}", ylabel="mean score, %")
    axes.margins(y=0.1)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9)
    return _png(figure)


def _timeline(stages: Sequence[StageCurves], rows: Sequence[tuple[str, str, float]]) -> bytes:
    """The stages end to end on one axis of steps, a row for each (key, label, scale); medians stand in the legend."""
    figure = _figure(max(1.9, 0.24 * len(stages) + 0.7) * len(rows) + 0.3)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (key, label, scale) in zip(panels, rows, strict=True):
        start, top = 0.0, 100.0 if key == "train/pack_fill_ratio" else 0.0
        for index, stage in enumerate(stages):
            color = COLORS[index % len(COLORS)]
            steps, values = stage.series(key)
            values = [scale * value for value in values]
            places = [start + step for step in steps]
            middle = f"{median(values):,.0f}" if values and median(values) >= 100 else f"{median(values or [0]):.1f}"
            panel.plot(places, values, color=color, linewidth=0.6, alpha=0.35)
            name = f"{stage.name}  {middle}" if values else f"{stage.name}  -"
            panel.plot(places, _running_mean(values), color=color, linewidth=2, label=name)
            start += max((row["step"] + 1 for row in stage.metrics if "step" in row), default=0.0)
            panel.axvline(start, color=FAINT, linewidth=0.7)
            top = max([top, *values])
        panel.set(ylabel=label, ylim=(0, 1.05 * top or 1), xlim=(0, start or 1))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
        panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), title="median of stage")
    panels[-1].set_xlabel("optimizer step, stages end to end")
    return _png(figure)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Means over windows centred on each point, so that a falling curve is not shown late; cut short at both ends."""
    reach = int(SMOOTHING_POINTS_RATIO * len(values) / 2)
    windows = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _figure(height_inches: float) -> Figure:
    from matplotlib.figure import Figure  # the object API draws with Agg: no display, no global state

    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained", facecolor="white")


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        _tidy(axes)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return stream.getvalue()


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.title.set_fontsize(10)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_color(INK)
    if axes.get_visible():
        axes.grid(axis="both", color="#e9ecef", linewidth=0.7)
