"""The look of the routing figures: one palette, tidy axes, pictures as bytes.

Lines differ in colour (a palette that colour-blind readers tell apart), in dashes and in markers, so that they survive
a black-and-white printer; heat maps grow evenly in lightness. matplotlib is imported where it draws: it costs a command
line half a second.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, FAINT = "#343a40", "#868e96", "#dee2e6"
WIDTH_INCHES = 9.0
HEAT = "cividis"


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same numbers."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "routing"}), io.BytesIO() as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
        return stream.getvalue()


def new_figure(height_inches: float) -> Figure:
    """An empty figure as wide as a page."""
    from matplotlib.figure import Figure  # the object API draws without a display and without global state

    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=150, layout="constrained", facecolor="white")


def scaled(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """An axis that shows `factor` times another, and the way back."""
    return (lambda value: value * factor), (lambda value: value / factor)


def style_of(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of the trace with this number."""
    place = number % len(COLORS)
    return {"color": COLORS[place], "linestyle": DASHES[place], "marker": MARKERS[place]}


def legend(axes: Axes, *, title: str | None = None) -> None:
    """A legend to the right of tidy axes, where it hides no line."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, title=title, title_fontsize=8)
    tidy(axes)


def tidy(axes: Axes, *, grid: bool = True, colors: bool = True) -> None:
    """Small print, two spines and a faint grid; `colors=False` leaves those of the tick labels."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, length=3)
    if colors:
        axes.tick_params(colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    if grid:
        axes.grid(color="#eef0f2", linewidth=0.7)
