"""A contact sheet: pictures with what is asked about them, because wrong ground truth is seen faster than tested."""

import itertools
import textwrap

from PIL import Image, ImageDraw

from mindvl.data.render.config import RenderConfig
from mindvl.data.render.document import Document
from mindvl.data.render.fonts import chinese_font, latin_font, sized
from mindvl.data.render.sample import draw_document

TILE_PIXELS, PICTURE_PIXELS, TEXT_PIXELS, LINE_PIXELS = 340, 300, 13, 17
COLUMNS = 4


def contact_sheet(plan: RenderConfig, count: int) -> Image.Image:
    """The first documents of every source in turn, from the first split that a source has."""
    pairs = [(source, next(s for s, n in source.samples.items() if n)) for source in plan.sources.values()]
    order = itertools.islice(((pair, index) for index in itertools.count() for pair in pairs), count)
    tiles = [
        _tile(source.name, draw_document(source, seed=plan.seed, split=split, index=index), source.style.cjk_font)
        for (source, split), index in order
    ]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (TILE_PIXELS * min(COLUMNS, len(tiles)), sum(heights)), (160, 160, 160))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * TILE_PIXELS, top))
        top += height
    return sheet


def _tile(name: str, document: Document, cjk_font: str) -> Image.Image:
    lines = [f"{name}" + (f"  {document.image.width}x{document.image.height}" if document.image else "  text only")]
    if document.image is None:
        lines += [f"|{row}|" for row in document.transcript or []]
    for asked in document.questions:
        lines += textwrap.wrap(f"Q {asked.question}", 40)
        lines += textwrap.wrap(f"A {asked.answer}", 40, subsequent_indent="  ")
    chinese = any(ord(char) >= 0x2E80 for line in lines for char in line)
    font = sized(chinese_font(cjk_font) if chinese else latin_font("DejaVuSansMono"), TEXT_PIXELS)
    picture = document.image.copy() if document.image else Image.new("RGB", (1, 1), "white")
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    tile = Image.new("RGB", (TILE_PIXELS - 4, picture.height + LINE_PIXELS * len(lines) + 16), "white")
    tile.paste(picture, (4, 4))
    pen = ImageDraw.Draw(tile)
    for index, line in enumerate(lines):
        pen.text((6, picture.height + 8 + index * LINE_PIXELS), line, font=font, fill="black")
    return tile
