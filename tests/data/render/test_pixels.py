"""The ground truth is what the pixels show."""

import re

import numpy as np
import pytest

from mindvl.data.render.config import check_config
from mindvl.data.render.fonts import cell_glyph, latin_font
from mindvl.data.render.sample import draw_document
from mindvl.data.render.shapes import SHAPES, shape_mask

PLAIN = {
    "cell_pixels": 28,
    "noise_levels": 0.0,
    "jitter_pixels": 0,
    "fonts": ["DejaVuSans"],
    "glyph_ratio": [0.75, 0.75],
}


def documents(family, count, **settings):
    source = check_config({**PLAIN, "sources": {"it": {"family": family, "train": 1, **settings}}}).sources["it"]
    return [draw_document(source, seed=0, split="train", index=index) for index in range(count)]


@pytest.mark.parametrize("family", ["ocr_line", "ocr_paragraph", "receipt", "key_value", "table"])
def test_each_cell_shows_the_glyph_that_the_transcript_says(family):
    for document in documents(family, 5):
        pixels = np.asarray(document.image)
        used = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        paper = used[0][used[1].argmax()]
        for row, line in enumerate(document.transcript):
            for column, char in enumerate(line):
                cell = pixels[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
                ink = np.zeros((28, 28), np.uint8)
                if char != " ":
                    glyph, top, left = cell_glyph(latin_font("DejaVuSans"), 21, char, 28)
                    ink[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
                differs = (cell != paper).any(-1)
                assert differs[ink > 8].all() and not differs[ink == 0].any()


@pytest.mark.parametrize("cell_pixels", [28, 0])
def test_boxes_are_the_extent_of_the_drawn_pixels(cell_pixels):
    snap = 28 if cell_pixels else 1
    settings = {"cell_pixels": cell_pixels, "box_snap_pixels": snap, "object_pixels": [28, 60], "objects": [1, 4]}
    for document in documents("grounding", 25, width_pixels=[112, 224], height_pixels=[112, 224], **settings):
        boxes = [tuple(map(int, box)) for box in re.findall(r"\[(\d+),(\d+),(\d+),(\d+)\]", document.content)]
        pixels = np.asarray(document.image).copy()
        colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        drawn = (pixels != colors[counts.argmax()]).any(-1)
        if drawn.mean() > 0.5:  # crowded: the commonest colour may be a shape's
            continue
        for x1, y1, x2, y2 in boxes:
            inside = drawn[y1:y2, x1:x2]
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (0, 0, x2 - x1, y2 - y1)
            assert all(edge % snap == 0 for edge in (x1, y1, x2, y2))
            drawn[y1:y2, x1:x2] = False
        assert not drawn.any()
        size = f"{document.image.width}x{document.image.height}"
        for asked in document.questions:
            assert asked.question.startswith(f"size {size}. ")
            if asked.metric == "box_iou":
                assert tuple(map(int, re.findall(r"\d+", asked.answer))) in boxes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size_pixels", [12, 20, 28, 57, 112])
def test_a_shape_touches_all_four_sides_of_its_box(shape, size_pixels):
    assert shape_mask(shape, size_pixels).getbbox() == (0, 0, size_pixels, size_pixels)


def test_a_counted_picture_has_the_same_size_whatever_it_holds():
    sizes = {}
    settings = {"margin_cells": [0, 0], "object_cells": [1, 1], "max_count": 4, "max_others": 2}
    for document in documents("counting", 60, **settings):
        sizes.setdefault(len(document.content.split(",")), set()).add(document.image.size)
    assert sizes[2] == sizes[5]
