"""Score against visual tokens, a panel for each benchmark: what more pixels buy, and where the pick lies.

    figure = draw_resolution_curve(results)       # {benchmark: ResolutionResult}
    Path("resolution.png").write_bytes(png_bytes(figure))

A line joins budgets of one lower bound. Bars are the intervals of the selection split; the two diamonds are the report
split's, of the default (hollow) and of the pick. Pale points are budgets that halving dropped before all samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .resolution_search import BudgetScore, ResolutionResult

_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_PICK, _INK, _FAINT = "#D55E00", "#343a40", "#ced4da"
_MARKERS = ("o", "s", "^", "v", "P", "X")
_PANELS_PER_ROW, _DPI = 2, 130


def draw_resolution_curve(results: Mapping[str, ResolutionResult]) -> Any:
    """A matplotlib figure. Raises ModuleNotFoundError where matplotlib is not installed."""
    try:
        # torchmetrics draws with matplotlib where there is one; a callback must not ask for it by itself.
        from torchmetrics.utilities.plot import plt
    except ImportError as error:
        raise ModuleNotFoundError("the curve of a resolution search is drawn with matplotlib: install it") from error
    columns = min(_PANELS_PER_ROW, len(results))
    rows = math.ceil(len(results) / columns)
    # `Figure` itself draws without a display, and leaves no open window behind.
    figure = plt.Figure(figsize=(6.4 * columns, 4.3 * rows), dpi=_DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[len(results) :]:
        panel.set_visible(False)
    for panel, result in zip(panels, results.values(), strict=False):
        _draw(panel, result)
    return figure


def png_bytes(figure: Any) -> bytes:
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return stream.getvalue()


def pixels_of(figure: Any) -> Tensor:
    """The figure as (height, width, 3) bytes, the form that loggers take."""
    with io.BytesIO() as stream:
        figure.savefig(stream, format="rgba")
        data = bytearray(stream.getvalue())
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    return torch.frombuffer(data, dtype=torch.uint8).reshape(height, width, 4)[..., :3].contiguous()


def _draw(axes: Any, result: ResolutionResult) -> None:
    floors = sorted({point.min_pixels for point in result.grid})
    for number, floor in enumerate(floors):
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        points = sorted((p for p in result.grid if p.min_pixels == floor), key=lambda p: p.mean_visual_tokens)
        whole = [point for point in points if point.selection.num_samples == result.num_selection]
        axes.plot([p.mean_visual_tokens for p in whole], [p.selection.score for p in whole], color=color, linewidth=1.4)
        for point in points:
            alpha = 1.0 if point in whole else 0.35
            _bar(axes, point.mean_visual_tokens, point.selection, color=color, marker=marker, markersize=5, alpha=alpha)
        axes.plot([], [], color=color, marker=marker, markersize=5, label=f"at least {_pixels(floor)} px")
    same = result.chosen == result.default
    _report(axes, result.default, "default and pick" if same else "default", color=_PICK if same else _INK, fill=same)
    if not same:
        _report(axes, result.chosen, "pick", color=_PICK, fill=True)
    tokens = [point.mean_visual_tokens for point in result.grid]
    if min(tokens) > 0 and max(tokens) > 3 * min(tokens):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    gain = result.difference
    axes.set_title(
        f"{result.benchmark}: pick - default {gain.score:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
        fontsize=10,
        loc="left",
        color=_INK,
    )
    axes.set_xlabel("mean visual tokens of a sample", color=_INK, fontsize=9)
    axes.set_ylabel(f"score ({result.num_selection} to select, {result.num_report} to report)", color=_INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e9ecef", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _report(axes: Any, point: BudgetScore, name: str, *, color: str, fill: bool) -> None:
    """The point's score on the report split, and a ring about its score on the selection split."""
    size = f"{_pixels(point.min_pixels)} to {_pixels(point.max_pixels)}"
    style = {"color": color, "marker": "D", "markersize": 7, "markerfacecolor": color if fill else "white"}
    if point.report is not None and point.report_visual_tokens is not None:
        _bar(axes, point.report_visual_tokens, point.report, zorder=4, **style)
    axes.plot([], [], linestyle="none", label=f"{name}, reported:\n{size} px", **style)
    ring = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": color}
    axes.plot([point.mean_visual_tokens], [point.selection.score], linestyle="none", zorder=5, **ring)


def _bar(axes: Any, tokens: float, shown: Any, **style: Any) -> None:
    # An interval is of redrawn means and may, on a handful of samples, lie beside the mean itself.
    below, above = max(0.0, shown.score - shown.low), max(0.0, shown.high - shown.score)
    axes.errorbar([tokens], [shown.score], [[below], [above]], capsize=2.5, elinewidth=1, linestyle="none", **style)


def _pixels(count: int) -> str:
    """The square that has so many pixels."""
    side = round(math.sqrt(count))
    return f"{side} x {side}"
