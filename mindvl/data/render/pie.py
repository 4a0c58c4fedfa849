"""Pies: a legend ties each slice to its label by colour, and prints its value where the config asks for it."""

from PIL import Image, ImageDraw

from mindvl.data.render.charts import Series, draw_series, series_asks, written
from mindvl.data.render.context import Context
from mindvl.data.render.document import Document
from mindvl.data.render.fonts import sized
from mindvl.data.render.page import add_margins, draw_grid
from mindvl.data.render.paper import Color
from mindvl.data.render.shapes import COLORS
from mindvl.data.render.style import Range


def chart_pie(
    context: Context,
    *,
    points: Range = (3, 6),
    value: Range = (5, 99),
    label_length_chars: Range = (2, 7),
    charset: str = "alnum",
    value_labels: bool = True,
    pie_cells: Range = (2, 4),
) -> Document:
    """A pie with its legend. On a grid the pie covers a square of `pie_cells` cells, left of the legend."""
    if points[1] > len(COLORS):
        raise ValueError(f"points is {list(points)}, but there are colours for only {len(COLORS)} slices")
    series = draw_series(context, points, value, label_length_chars, charset)
    content = context.settle("pie " + written(series))
    # Slices have no axis: without printed values only their order can be seen.
    asks = [
        ask
        for ask in series_asks(context, series, ("largest", "smallest"), readable=value_labels)
        if value_labels or ask.kind != "chart_value"
    ]
    questions = context.ask(asks)
    colors = [color for color, _ in context.sample(tuple(COLORS.values()), len(series))]
    if not context.on_grid:
        return Document(_free_pie(context, series, colors, value_labels), questions, None, content)
    side = context.between(pie_cells)
    label_cells = max(map(len, series))
    legend = ["#" + label.ljust(label_cells) + (f" {v}" if value_labels else "") for label, v in series.items()]
    height = max(side, len(legend))
    pie_rows = ["#" * side if row < side else " " * side for row in range(height)]
    rows = [f"{body} {text}" for body, text in zip(pie_rows, [*legend, *[""] * (height - len(legend))], strict=True)]
    width = max(map(len, rows))
    transcript, left, top = add_margins(context, [row.ljust(width) for row in rows])
    if context.text_only:
        return Document(None, questions, transcript, content)
    picture = Image.fromarray(draw_grid(context, transcript, skip="#"))
    cell = context.style.cell_pixels
    _draw_slices(picture, series, colors, (left * cell + 1, top * cell + 1), side * cell - 2, context.paper.ink)
    pen, inset = ImageDraw.Draw(picture), cell // 5
    for index, color in enumerate(colors):
        x, y = (left + side + 1) * cell, (top + index) * cell
        pen.rectangle((x + inset, y + inset, x + cell - 1 - inset, y + cell - 1 - inset), fill=color)
    return Document(context.finish(picture), questions, transcript, content)


def _draw_slices(
    picture: Image.Image, series: Series, colors: list[Color], corner: tuple[int, int], side: int, ink: Color
) -> None:
    pen, angle, total = ImageDraw.Draw(picture), -90.0, sum(series.values())
    box = (*corner, corner[0] + side - 1, corner[1] + side - 1)
    for value, color in zip(series.values(), colors, strict=True):
        pen.pieslice(box, angle, angle + 360 * value / total, fill=color, outline=ink)
        angle += 360 * value / total


def _free_pie(context: Context, series: Series, colors: list[Color], value_labels: bool) -> Image.Image:
    """A pie on the left and its legend on the right of a page that grows where they need room."""
    size = context.between(context.style.font_pixels)
    font, ink = sized(context.font, size), context.paper.ink
    texts = [f"{label}  {value}" if value_labels else label for label, value in series.items()]
    legend_width, pitch = round(max(map(font.getlength, texts))) + 2 * size, round(1.5 * size)
    width = max(context.between(context.style.width_pixels), legend_width + 8 * size)
    height = max(context.between(context.style.height_pixels), pitch * len(series) + size, 7 * size)
    side = min(width - legend_width - 2 * size, height - size)
    side = round(side * (0.7 + 0.3 * context.rng.random()))
    picture = context.blank((width, height))
    pie_top = context.between((size // 2, height - side - size // 2))
    _draw_slices(picture, series, colors, (size // 2, pie_top), side, ink)
    pen = ImageDraw.Draw(picture)
    left = context.between((side + size, width - legend_width - size // 2))
    top = context.between((size // 2, height - pitch * len(series) - size // 2))
    for index, (text, color) in enumerate(zip(texts, colors, strict=True)):
        y = top + index * pitch
        pen.rectangle((left, y, left + size, y + size), fill=color)
        pen.text((left + 1.6 * size, y + size // 2), text, font=font, fill=ink, anchor="lm")
    return context.finish(picture)
