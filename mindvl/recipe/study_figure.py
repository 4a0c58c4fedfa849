"""A study as one picture: a panel for each group of families, a line for each model, two marks with their intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mindvl.recipe.curves import ACCENT, COLORS, DPI, INK, WIDTH_INCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_INCHES = 0.36
MARKS = {"default": ("default resolution", "o", COLORS[0]), "searched": ("searched resolution", "D", ACCENT)}


def draw_study(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bytes:
    """PNG of group -> model -> estimates, as `mindvl.recipe.study_table.compare` makes them. Averages are in bold."""
    # `Figure` itself draws without a display, and leaves no open window behind.
    from matplotlib.figure import Figure

    height = LINE_INCHES * len(next(iter(groups.values()))) + 1.3
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for panel, (group, models) in zip(panels, groups.items(), strict=True):
        _draw(panel, group, models)
    # The panels share their models' names: what is set on the first is set on all.
    names = next(iter(groups.values()))
    panels[0].set_yticks(range(len(names)), list(names), color=INK)
    for text, facts in zip(panels[0].get_yticklabels(), names.values(), strict=True):
        text.set_fontweight("bold" if facts["kept"] else "normal")
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(MARKS), frameon=False)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return stream.getvalue()


def _draw(axes: Axes, group: str, models: Mapping[str, Mapping[str, Any]]) -> None:
    for shift, (key, (label, marker, color)) in zip((-0.14, 0.14), MARKS.items(), strict=True):
        shown = [facts[key] for facts in models.values()]
        scores = [100 * one.score for one in shown]
        below = [100 * max(0.0, one.score - one.low) for one in shown]
        above = [100 * max(0.0, one.high - one.score) for one in shown]
        places = [number + shift for number in range(len(shown))]
        style: dict[str, Any] = {"fmt": marker, "color": color, "markersize": 5, "elinewidth": 1.2, "capsize": 2}
        axes.errorbar(scores, places, xerr=[below, above], label=label, **style)
    axes.set_title(group, loc="left", color=INK, fontsize=11)
    axes.set_xlabel("mean score over families, % (95 % interval over questions)", color=INK)
    axes.grid(axis="x", color="#e9ecef")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=INK)
