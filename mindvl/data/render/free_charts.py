"""Charts in free layouts: axes with round ticks, bars or a line, labels in a proportional font."""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from mindvl.data.render.context import Context
from mindvl.data.render.fonts import sized
from mindvl.data.render.shapes import COLORS


def tick_step(highest: float) -> int:
    """The round number (1, 2 or 5 times a power of ten) that cuts 0..highest into at most six parts: 237 into 50s."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if highest <= 6 * step * factor:
                return step * factor
        step *= 10


def draw_axes(context: Context, series: Mapping[str, int], *, value_labels: bool, line: bool = False) -> Image.Image:
    """A chart with a value axis on the left and labels below; the page grows where the labels need room."""
    size = context.between(context.style.font_pixels)
    font, ink = sized(context.font, size), context.paper.ink
    step = tick_step(max(series.values()))
    top_value = -(-max(series.values()) // step) * step
    printed = [*series, *(str(value) for value in series.values() if value_labels)]
    slot = max(max(map(font.getlength, printed)) + size // 2, size)
    left = round(font.getlength(str(top_value))) + size
    width = max(context.between(context.style.width_pixels), round(left + size + slot * len(series)))
    height = max(context.between(context.style.height_pixels), 10 * size)
    top, bottom, right = round(1.8 * size), height - 2 * size, width - size
    picture = context.blank((width, height))
    pen = ImageDraw.Draw(picture)
    slot = (right - left) / len(series)

    def level(value: float) -> int:
        return round(bottom - (bottom - top) * value / top_value)

    faint = tuple((3 * a + b) // 4 for a, b in zip(context.paper.paper, ink, strict=True))
    for tick in range(0, top_value + 1, step):
        pen.line((left, level(tick), right, level(tick)), fill=faint)
        pen.text((left - size // 3, level(tick)), str(tick), font=font, fill=ink, anchor="rm")
    pen.line((left, top, left, bottom, right, bottom), fill=ink, width=max(1, size // 12))
    colors = [color for color, _ in context.sample(tuple(COLORS.values()), len(COLORS))]
    centers = [round(left + slot * (index + 0.5)) for index in range(len(series))]
    places = [(x, level(value)) for x, value in zip(centers, series.values(), strict=True)]
    if line:
        pen.line(places, fill=colors[0], width=max(2, size // 8))
    one_color = context.chance(0.5)
    half = round(slot * (0.25 + 0.15 * context.rng.random()))
    for index, ((x, y), (label, value)) in enumerate(zip(places, series.items(), strict=True)):
        if line:
            pen.circle((x, y), max(3, size // 5), fill=colors[0])
        else:
            pen.rectangle(
                (x - half, min(y, bottom - 1), x + half, bottom - 1),
                fill=colors[0 if one_color else index % len(colors)],
            )
        if value_labels:
            halo = max(1, size // 8)  # in the paper's colour: the line may pass here
            place, paper = (x, y - size // 3), context.paper.paper
            pen.text(place, str(value), font=font, fill=ink, anchor="ms", stroke_width=halo, stroke_fill=paper)
        pen.text((x, bottom + size // 3), label, font=font, fill=ink, anchor="mt")
    return picture
