"""Bars and points: labels below, sizes in proportion, values printed where the config asks for them.

On a grid each label and value keeps to its own cells; bars and lines are drawn over cells that hold no glyph. In a
transcript `#` is a cell that a bar covers at least by half and `*` a cell with a point.
"""

from PIL import Image, ImageDraw

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.free_charts import draw_axes
from mindvl.data.render.page import add_margins, draw_grid
from mindvl.data.render.paper import Color
from mindvl.data.render.shapes import COLORS
from mindvl.data.render.style import Range
from mindvl.data.render.words import distinct_numbers, distinct_words

Series = dict[str, int]


def chart_bar(
    context: Context,
    *,
    points: Range = (3, 8),
    value: Range = (1, 999),
    label_length_chars: Range = (2, 7),
    charset: str = "alnum",
    value_labels: bool = True,
    body_cells: Range = (2, 5),
    horizontal_ratio: float = 0.3,
) -> Document:
    """Bars. On a grid they stand or, with probability `horizontal_ratio`, lie; the longest takes `body_cells`."""
    series = draw_series(context, points, value, label_length_chars, charset)
    content = context.settle("bar " + written(series))
    questions = context.ask(series_asks(context, series, ("highest", "lowest"), readable=value_labels))
    if not context.on_grid:
        return Document(context.finish(draw_axes(context, series, value_labels=value_labels)), questions, None, content)
    if context.chance(horizontal_ratio):
        rows, bars = _lying_bars(context, series, context.between(body_cells), value_labels)
    else:
        rows, bars = _standing_bars(context, series, context.between(body_cells), value_labels)
    transcript, left, top = add_margins(context, rows)
    if context.text_only:
        return Document(None, questions, transcript, content)
    picture = Image.fromarray(draw_grid(context, transcript, skip="#"))
    pen, cell, one_color = ImageDraw.Draw(picture), context.style.cell_pixels, context.chance(0.5)
    color = bar_color(context)
    for x, y, width, height in bars:
        color = color if one_color else bar_color(context)
        box = (round((left + x) * cell), round((top + y) * cell))
        pen.rectangle((*box, box[0] + round(width * cell) - 1, box[1] + round(height * cell) - 1), fill=color)
    return Document(context.finish(picture), questions, transcript, content)


def chart_line(
    context: Context,
    *,
    points: Range = (3, 8),
    value: Range = (1, 999),
    label_length_chars: Range = (2, 7),
    charset: str = "alnum",
    value_labels: bool = True,
    body_cells: Range = (2, 5),
) -> Document:
    """Points joined by a line. On a grid the values are printed in the first row, where no line crosses them."""
    series = draw_series(context, points, value, label_length_chars, charset)
    content = context.settle("line " + written(series))
    questions = context.ask(series_asks(context, series, ("highest", "lowest"), readable=value_labels))
    if not context.on_grid:
        picture = draw_axes(context, series, value_labels=value_labels, line=True)
        return Document(context.finish(picture), questions, None, content)
    rows, dots = _dots(series, context.between(body_cells), value_labels)
    transcript, left, top = add_margins(context, rows)
    if context.text_only:
        return Document(None, questions, transcript, content)
    picture = Image.fromarray(draw_grid(context, transcript, skip="*"))
    pen, cell, color = ImageDraw.Draw(picture), context.style.cell_pixels, bar_color(context)
    places = [(round((left + x) * cell), round((top + y) * cell)) for x, y in dots]
    pen.line(places, fill=color, width=max(2, cell // 10))
    for place in places:
        pen.circle(place, max(2, cell // 7), fill=color)
    return Document(context.finish(picture), questions, transcript, content)


def draw_series(context: Context, points: Range, value: Range, label_length_chars: Range, charset: str) -> Series:
    """Different labels with different values, so that highest and lowest have one answer."""
    count = context.between(points)
    labels = distinct_words(context, count, charset=charset, length_chars=label_length_chars)
    return dict(zip(labels, distinct_numbers(context, count, value), strict=True))


def series_asks(context: Context, series: Series, extremes: tuple[str, str], *, readable: bool) -> list[Ask]:
    """Extremes always; values only where they can be read, from print or (in free layouts) from the axis."""
    ranked = sorted(series, key=series.__getitem__)
    asks = [Ask(extremes[0], ranked[-1]), Ask(extremes[1], ranked[0])]
    if readable or not context.on_grid:
        asks += [Ask("chart_value", str(v), "relaxed_accuracy", (("label", label),)) for label, v in series.items()]
    return asks


def written(series: Series) -> str:
    return " ".join(f"{label}:{value}" for label, value in series.items())


def bar_color(context: Context) -> Color:
    return COLORS[context.pick(tuple(COLORS))][0]


def _standing_bars(
    context: Context, series: Series, body: int, value_labels: bool
) -> tuple[list[str], list[tuple[float, float, float, float]]]:
    """Rows of cells and the bars as (x, y, width, height) in cells."""
    highest, wide = max(series.values()), _column_cells(series, value_labels)
    canvas = [[" "] * ((wide + 1) * len(series) - 1) for _ in range(body + 2)]
    bars = []
    for index, (label, value) in enumerate(series.items()):
        start, height = index * (wide + 1), max(value / highest * body, 0.1)
        touched = -int(-height // 1)
        for row in range(body + 1 - round(height), body + 1):
            canvas[row][start : start + wide] = "#" * wide
        if value_labels:
            canvas[body - touched][start : start + wide] = str(value).center(wide)
        canvas[body + 1][start : start + wide] = label.center(wide)
        bars.append((start + 0.1, body + 1 - height, wide - 0.2, height))
    rows = ["".join(row) for row in canvas]
    if value_labels:
        return rows, bars
    return rows[1:], [(x, y - 1, width, height) for x, y, width, height in bars]


def _lying_bars(
    context: Context, series: Series, body: int, value_labels: bool
) -> tuple[list[str], list[tuple[float, float, float, float]]]:
    highest, indent = max(series.values()), max(map(len, series)) + 1
    rows: list[str] = []
    bars: list[tuple[float, float, float, float]] = []
    for index, (label, value) in enumerate(series.items()):
        length = max(value / highest * body, 0.1)
        touched = -int(-length // 1)
        covered = "#" * round(length)
        rows.append(label.ljust(indent) + covered.ljust(touched) + (str(value) if value_labels else ""))
        bars.append((indent, index + 0.15, length, 0.7))
    width = max(map(len, rows))
    return [row.ljust(width) for row in rows], bars


def _dots(series: Series, body: int, value_labels: bool) -> tuple[list[str], list[tuple[float, float]]]:
    """Rows of cells and the points as (x, y) in cells."""
    highest, wide = max(series.values()), _column_cells(series, value_labels)
    canvas = [[" "] * ((wide + 1) * len(series) - 1) for _ in range(body + 2)]
    dots = []
    for index, (label, value) in enumerate(series.items()):
        start, middle = index * (wide + 1), index * (wide + 1) + (wide - 1) // 2
        depth = 0.2 + (1 - value / highest) * (body - 0.4)  # cells below the top of the body
        canvas[1 + int(depth)][middle] = "*"
        if value_labels:
            canvas[0][start : start + wide] = str(value).center(wide)
        canvas[body + 1][start : start + wide] = label.center(wide)
        dots.append((middle + 0.5, 1 + depth))
    rows = ["".join(row) for row in canvas]
    if value_labels:
        return rows, dots
    return rows[1:], [(x, y - 1) for x, y in dots]


def _column_cells(series: Series, value_labels: bool) -> int:
    return max(max(map(len, series)), max(len(str(value)) for value in series.values()) if value_labels else 1)
