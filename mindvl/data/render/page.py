"""A printed page is rows of fields in columns: a line of text is one field, a receipt two columns, a table many.

On a grid the columns are padded with spaces to whole cells and each glyph is drawn in the middle of its own cell. In a
free layout the columns are measured in pixels with a proportional font. Both draw the same fields.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvl.data.render.context import Context
from mindvl.data.render.fonts import cell_glyph, require, sized

Rows = Sequence[Sequence[str]]


def draw_page(
    context: Context, rows: Rows, *, right_align: Sequence[bool] = (), rules: bool = False, gap_cells: int = 1
) -> tuple[Image.Image | None, list[str] | None]:
    """The picture and the transcript of a page.

    A row with one field on a page with several columns spans them all. `right_align` names columns set flush right.
    """
    if not context.on_grid:
        return _draw_free(context, rows, right_align=right_align, rules=rules), None
    transcript, _, _ = add_margins(context, grid_rows(rows, right_align=right_align, gap_cells=gap_cells))
    if context.text_only:
        return None, transcript
    return context.finish(draw_grid(context, transcript)), transcript


def grid_rows(rows: Rows, *, right_align: Sequence[bool] = (), gap_cells: int = 1) -> list[str]:
    """Fields padded to columns: [["pen", "5"], ["total", "12"]] becomes "pen    5" and "total 12"."""
    columns = max(map(len, rows))
    widths = [
        max((len(row[c]) for row in rows if c < len(row) and (len(row) > 1 or columns == 1)), default=0)
        for c in range(columns)
    ]
    flush = [*right_align, *[False] * columns]
    lines = []
    for row in rows:
        fields = [text.rjust(widths[c]) if flush[c] else text.ljust(widths[c]) for c, text in enumerate(row)]
        lines.append((" " * gap_cells).join(fields) if len(row) > 1 or columns == 1 else row[0])
    total = max(map(len, lines))
    return [line.ljust(total) for line in lines]


def add_margins(context: Context, rows: Sequence[str]) -> tuple[list[str], int, int]:
    """Rows with empty cells on the four sides, each side drawn by itself; then the cells added on the left and top."""
    left, right, top, bottom = (context.between(context.style.margin_cells) for _ in range(4))
    padded = [" " * left + row + " " * right for row in rows]
    blank = " " * len(padded[0])
    return [blank] * top + padded + [blank] * bottom, left, top


def draw_grid(context: Context, rows: Sequence[str], *, skip: str = "") -> np.ndarray:
    """Pixels of a character grid: one glyph in each cell. Characters in `skip` are left for a later drawing."""
    cell, jitter = context.style.cell_pixels, context.style.jitter_pixels
    low, high = context.style.glyph_ratio
    size = round(cell * (low + (high - low) * context.rng.random()))
    text = "".join(rows)
    for char in skip:
        text = text.replace(char, " ")
    require(context.font, text)
    moves = context.rng.integers(-jitter, jitter + 1, (len(text), 2)).tolist()
    columns = len(rows[0])
    mask = np.zeros((len(rows) * cell, columns * cell), np.uint8)
    for index, char in enumerate(text):
        if char == " ":
            continue
        glyph, row, column = cell_glyph(context.font, size, char, cell)
        height, width = glyph.shape
        row = min(max(row + moves[index][0], 0), cell - height) + index // columns * cell
        column = min(max(column + moves[index][1], 0), cell - width) + index % columns * cell
        mask[row : row + height, column : column + width] = glyph
    # Every pixel is a blend of two colours, so 256 blends make the whole picture.
    paper, ink = np.array(context.paper.paper, np.float32), np.array(context.paper.ink, np.float32)
    blends = paper + (ink - paper) * (np.arange(256, dtype=np.float32)[:, None] / 255)
    return np.rint(blends).astype(np.uint8)[mask]


def _draw_free(context: Context, rows: Rows, *, right_align: Sequence[bool], rules: bool) -> Image.Image:
    """A page at a random size; the font shrinks to fit it, and the page grows where the smallest font does not."""
    page_width, page_height = context.between(context.style.width_pixels), context.between(context.style.height_pixels)
    smallest, largest = context.style.font_pixels
    spacing = 1.25 + 0.5 * context.rng.random()
    size = context.between((smallest, largest))
    columns = max(map(len, rows))
    for text in (text for row in rows for text in row):
        require(context.font, text)
    while True:
        font = sized(context.font, size)
        cells = [[row[c] for row in rows if 1 < len(row) > c] for c in range(columns)]
        widths = [max(map(font.getlength, column), default=0) for column in cells]
        spans = max((font.getlength(row[0]) for row in rows if len(row) == 1), default=0)
        gap, pitch = size * 1.2, round(size * spacing)
        width = max(sum(widths) + gap * (columns - 1), spans)
        height = pitch * len(rows)
        if size <= smallest or (width + size <= page_width and height + size <= page_height):
            break
        size = max(smallest, size - 2)
    page_width, page_height = max(page_width, round(width) + size), max(page_height, height + size)
    picture = context.blank((page_width, page_height))
    pen = ImageDraw.Draw(picture)
    left = context.between((size // 2, max(size // 2, page_width - round(width) - size // 2)))
    top = context.between((size // 2, max(size // 2, page_height - height - size // 2)))
    starts = [left + round(sum(widths[:c]) + gap * c) for c in range(columns)]
    flush = [*right_align, *[False] * columns]
    for index, row in enumerate(rows):
        for c, text in enumerate(row):
            x = starts[c] + (round(widths[c] - font.getlength(text)) if flush[c] and len(row) > 1 else 0)
            pen.text((x, top + index * pitch), text, font=font, fill=context.paper.ink)
    if rules:
        for index in range(len(rows) + 1):
            y = top + index * pitch - (pitch - size) // 3
            pen.line((left - size // 4, y, left + round(width) + size // 4, y), fill=context.paper.ink)
    return context.finish(picture)
