"""Printed sums: the answer is not on the picture, it has to be worked out.

Three kinds: `arithmetic` (3+4=?), `equation` (x+3=7, x=?) and `rectangle` (a drawn rectangle with its sides printed).
"""

from PIL import Image, ImageDraw

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.fonts import sized
from mindvl.data.render.page import add_margins, draw_grid, draw_page
from mindvl.data.render.style import Range
from mindvl.data.render.words import claim_number, number

KINDS = ("arithmetic", "equation", "rectangle")


def stem(
    context: Context,
    *,
    kinds: tuple[str, ...] = KINDS,
    operations: tuple[str, ...] = ("+", "-", "*"),
    operand: Range = (1, 99),
    side: Range = (2, 30),
    body_cells: Range = (2, 3),
) -> Document:
    """One printed sum. `operand` bounds every printed number of a sum, `side` the sides of a rectangle.

    body_cells: on a grid, the cells that a rectangle covers in each direction.
    """
    for given, known in ((kinds, KINDS), (operations, ("+", "-", "*"))):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"stem does not know {unknown[0]!r}; known are {', '.join(known)}")
    kind = context.pick(kinds)
    if kind == "rectangle":
        return _rectangle(context, side, body_cells)
    left, right = number(context, operand), number(context, operand)
    sign = context.pick(operations)
    if sign == "-" and left < right:  # answers stay at zero or above: one sign less to learn
        left, right = right, left
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    formula, answer = f"{left}{sign}{right}=?", result
    if kind == "equation":
        formula, answer = f"x{sign}{right}={result}, x=?", left
        if sign == "*" and right == 0:  # any x solves x*0=0
            formula = f"x+{right}={left}, x=?"
    claim_number(context, str(result))
    content = context.settle(formula)
    image, transcript = draw_page(context, [[formula]])
    questions = context.ask([Ask("solve", str(answer)), Ask("read_formula", formula)])
    return Document(image, questions, transcript, content)


def _rectangle(context: Context, side: Range, body_cells: Range) -> Document:
    width, height = number(context, side), number(context, side)
    area, perimeter = (claim_number(context, str(value)) for value in (width * height, 2 * (width + height)))
    content = context.settle(f"rectangle {width} x {height}")
    questions = context.ask([Ask("area", area), Ask("perimeter", perimeter)])
    if not context.on_grid:
        return Document(_free_rectangle(context, width, height), questions, None, content)
    columns, lines = max(context.between(body_cells), len(str(width))), context.between(body_cells)
    indent = len(str(height))
    rows = [" " * indent + str(width).center(columns)]
    rows += [(str(height) if line == (lines - 1) // 2 else " " * indent) + "#" * columns for line in range(lines)]
    transcript, first, top = add_margins(context, rows)
    if context.text_only:
        return Document(None, questions, transcript, content)
    picture = Image.fromarray(draw_grid(context, transcript, skip="#"))
    cell = context.style.cell_pixels
    first, top = first + indent, top + 1
    box = (first * cell + 2, top * cell + 2, (first + columns) * cell - 3, (top + lines) * cell - 3)
    ImageDraw.Draw(picture).rectangle(box, outline=context.paper.ink, width=max(2, cell // 12))
    return Document(context.finish(picture), questions, transcript, content)


def _free_rectangle(context: Context, width: int, height: int) -> Image.Image:
    """The rectangle to scale where that leaves both sides visible, with its sides printed above and on the left."""
    size = context.between(context.style.font_pixels)
    font = sized(context.font, size)
    room = round(font.getlength(str(height))) + size
    page_width = max(context.between(context.style.width_pixels), room + 5 * size)
    page_height = max(context.between(context.style.height_pixels), 7 * size)
    free_width, free_height = page_width - room - size, page_height - 3 * size
    ratio = min(max(width / height, 1 / 3), 3.0)
    drawn_width = max(2 * size, int(min(free_width, free_height * ratio) * (0.5 + 0.5 * context.rng.random())))
    drawn_height = max(2 * size, min(int(drawn_width / ratio), free_height))
    left = room + context.between((0, max(0, free_width - drawn_width)))
    top = 2 * size + context.between((0, max(0, free_height - drawn_height)))
    picture = context.blank((page_width, page_height))
    pen, ink = ImageDraw.Draw(picture), context.paper.ink
    pen.rectangle((left, top, left + drawn_width, top + drawn_height), outline=ink, width=max(2, size // 10))
    pen.text((left + drawn_width // 2, top - size // 3), str(width), font=font, fill=ink, anchor="ms")
    pen.text((left - size // 3, top + drawn_height // 2), str(height), font=font, fill=ink, anchor="rm")
    return context.finish(picture)
