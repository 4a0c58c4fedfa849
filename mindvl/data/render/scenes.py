"""Coloured shapes to describe and to count.

Each shape has a block of its own in a small raster, so that the reading order (left to right, then top to bottom) is
never in doubt. On a grid a block is a square of whole cells; in a free layout blocks share the page, and a shape's
size and place inside its block are free.
"""

from dataclasses import replace

from PIL import Image

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.shapes import COLORS, SHAPES, Thing, draw_thing, known_things, shape_paper
from mindvl.data.render.style import Range


def caption(
    context: Context,
    *,
    max_objects: int = 4,
    shapes: tuple[str, ...] = tuple(SHAPES),
    colors: tuple[str, ...] = tuple(COLORS),
    arrangements: tuple[str, ...] = ("row", "column", "grid"),
    object_cells: Range = (1, 2),
) -> Document:
    """A few shapes in a row, a column or a raster; the answer names them in reading order.

    object_cells: on a grid, the side of a shape's block in cells.
    """
    if unknown := [name for name in arrangements if name not in ("row", "column", "grid")]:
        raise ValueError(f"arrangement {unknown[0]!r} is not one of row, column, grid")
    if max_objects < 1:
        raise ValueError(f"max_objects is {max_objects}; it must be at least 1")
    options = known_things(shapes, colors)
    things = [context.pick(options) for _ in range(context.between((1, max_objects)))]
    arrangement = context.pick(arrangements)
    rows, columns = {
        "row": (1, len(things)),
        "column": (len(things), 1),
        "grid": _raster(context, len(things)),
    }[arrangement]
    content = context.settle(", ".join(thing.name(chinese=False) for thing in things))
    places = sorted(context.sample(range(rows * columns), len(things)))
    questions = context.ask(_caption_asks(context, things, arrangement))
    image = _draw_blocks(context, dict(zip(places, things, strict=True)), rows, columns, object_cells)
    return Document(image, questions, None, content)


def counting(
    context: Context,
    *,
    max_count: int = 9,
    max_others: int = 4,
    shapes: tuple[str, ...] = tuple(SHAPES),
    colors: tuple[str, ...] = tuple(COLORS),
    object_cells: Range = (1, 2),
) -> Document:
    """0 to `max_count` shapes of one kind among up to `max_others` others; the answer is a number."""
    options = known_things(shapes, colors)
    asked = context.pick(options)
    things = [asked] * context.between((0, max_count))
    things += [context.pick(options) for _ in range(context.between((0, max_others)))]
    # What is counted has no order, so neither has the content: three circles in test are not three circles in train.
    content = context.settle(", ".join(sorted(thing.name(chinese=False) for thing in things)) or "nothing")
    things = context.sample(things, len(things))
    # The raster does not depend on what is in it: else a model could count by the picture's size.
    rows, columns = _raster(context, max(1, max_count + max_others))
    places = context.sample(range(rows * columns), len(things))
    questions = context.ask(_counting_asks(context, things, asked))
    image = _draw_blocks(context, dict(zip(places, things, strict=True)), rows, columns, object_cells)
    return Document(image, questions, None, content)


def _caption_asks(context: Context, things: list[Thing], arrangement: str) -> list[Ask]:
    zh = context.chinese
    names = [thing.name(chinese=zh) for thing in things]
    phrases = [f"一个{name}" if zh else f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    comma, final = ("、", "和") if zh else (", ", " and ")
    asks = [Ask("describe", final.join(filter(None, (comma.join(phrases[:-1]), phrases[-1]))))]
    for thing in things:
        color, shape = (COLORS[thing.color][1], SHAPES[thing.shape][1]) if zh else (thing.color, thing.shape)
        if sum(other.shape == thing.shape for other in things) == 1:
            asks.append(Ask("color_of", color, fields=(("shape", shape),)))
        if sum(other.color == thing.color for other in things) == 1:
            asks.append(Ask("shape_of", shape, fields=(("color", color),)))
    if len(things) > 1 and arrangement != "grid":
        first, last = {"row": ("left", "right"), "column": ("top", "bottom")}[arrangement]
        asks += [Ask(first, names[0]), Ask(last, names[-1])]
    return asks


def _counting_asks(context: Context, things: list[Thing], asked: Thing) -> list[Ask]:
    if context.chinese:
        shape, color = SHAPES[asked.shape][1], COLORS[asked.color][1]
        names = {"kind": asked.name(chinese=True), "shape": shape, "color": f"{color}图形"}
    else:
        plural = SHAPES[asked.shape][0]
        names = {"kind": f"{asked.color} {plural}", "shape": plural, "color": f"{asked.color} shapes"}
    counts = {
        "kind": things.count(asked),
        "shape": sum(thing.shape == asked.shape for thing in things),
        "color": sum(thing.color == asked.color for thing in things),
    }
    asks = [Ask("count", str(counts[key]), fields=(("things", names[key]),)) for key in counts]
    return [*asks, Ask("count", str(len(things)), fields=(("things", "图形" if context.chinese else "shapes"),))]


def _raster(context: Context, count: int) -> tuple[int, int]:
    """Rows and columns of a raster with room for `count` shapes and no empty row."""
    columns = context.between((1, count)) if count < 4 else context.between((2, (count + 1) // 2))
    rows = -(-count // columns)
    return rows, columns


def _draw_blocks(
    context: Context, things: dict[int, Thing], rows: int, columns: int, object_cells: Range
) -> Image.Image:
    cell, jitter = context.style.cell_pixels, context.style.jitter_pixels
    if cell:
        block_width = block_height = cell * context.between(object_cells)
        margins = [cell * context.between(context.style.margin_cells) for _ in range(4)]
        page = (margins[0] + columns * block_width + margins[1], margins[2] + rows * block_height + margins[3])
    else:
        margins = [0, 0, 0, 0]
        page = (context.between(context.style.width_pixels), context.between(context.style.height_pixels))
        page = (max(page[0], 24 * columns), max(page[1], 24 * rows))
        block_width, block_height = page[0] // columns, page[1] // rows
    picture = replace(context, paper=shape_paper(context)).blank(page)
    for place, thing in things.items():
        side = min(block_width, block_height)
        if cell:
            size = side - 2 * (jitter + side // 14)
            shifts = [(side - size) // 2 + context.between((0, 2 * jitter)) - jitter for _ in range(2)]
        else:
            size = round(side * (0.4 + 0.5 * context.rng.random()))
            shifts = [context.between((0, room - size)) for room in (block_width, block_height)]
        left = margins[0] + place % columns * block_width + shifts[0]
        top = margins[2] + place // columns * block_height + shifts[1]
        draw_thing(context, picture, thing, left=left, top=top, size_pixels=size)
    return context.finish(picture)
