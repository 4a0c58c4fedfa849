"""What every family promises in both layouts, checked on documents drawn from many seeds."""

import re

import numpy as np
import pytest

from mindvl.data.render.config import check_config
from mindvl.data.render.families import FAMILIES, TEXT_FAMILIES
from mindvl.data.render.fonts import covers, latin_font
from mindvl.data.render.forms import KEYS
from mindvl.data.render.sample import draw_document
from mindvl.data.render.shapes import COLORS, SHAPES
from mindvl.data.render.split import SPLITS, is_open, split_of

GROUNDING = {"width_pixels": [112, 168], "height_pixels": [112, 168], "object_pixels": [28, 56], "box_snap_pixels": 28}
SMALL = {"width_pixels": [120, 360], "height_pixels": [120, 360], "font_pixels": [12, 24]}


def source(family, *, cell_pixels=28, **settings):
    if family == "grounding":
        settings = {**GROUNDING, **settings}
    elif cell_pixels == 0:
        settings = {**SMALL, **settings}
    config = {"cell_pixels": cell_pixels, "sources": {family: {"family": family, "train": 1, **settings}}}
    return check_config(config).sources[family]


def documents(family, count, *, split="train", **settings):
    made = source(family, **settings)
    return [draw_document(made, seed=3, split=split, index=index) for index in range(count)]


@pytest.mark.parametrize("cell_pixels", [28, 16, 0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_pictures_with_questions_in_both_layouts(family, cell_pixels):
    settings = {"box_snap_pixels": 16, "object_pixels": [32, 48]} if (family, cell_pixels) == ("grounding", 16) else {}
    for document in documents(family, 12, cell_pixels=cell_pixels, **settings):
        assert document.image.mode == "RGB"
        assert document.questions and all(asked.answer and asked.question for asked in document.questions)
        assert len({(asked.question, asked.answer) for asked in document.questions}) == len(document.questions)
        if cell_pixels:
            assert document.image.width % cell_pixels == 0 and document.image.height % cell_pixels == 0
        if cell_pixels and family in TEXT_FAMILIES:
            assert {len(row) for row in document.transcript} == {document.image.width // cell_pixels}
            assert len(document.transcript) == document.image.height // cell_pixels
        else:
            assert document.transcript is None


@pytest.mark.parametrize("family", sorted(TEXT_FAMILIES))
def test_a_text_only_document_opens_with_its_grid_in_raster_order(family):
    for document in documents(family, 5, text_only=True, cell_pixels=0):
        assert document.image is None
        first, *later = [message for message in document.messages() if message["role"] == "user"]
        assert first["content"][0]["text"] == "".join(document.transcript) + "\n" + document.questions[0].question
        assert [message["content"][0]["text"] for message in later] == [q.question for q in document.questions[1:]]


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_content_and_no_open_word(family):
    closed = {*KEYS, "total", "bar", "line", "pie", "rectangle"}
    for split in SPLITS:
        for document in documents(family, 10, split=split, cell_pixels=28, text_only=family in TEXT_FAMILIES):
            assert split_of(document.content) == split
            if family in ("caption", "counting", "grounding", "stem"):
                continue  # colours, shapes, coordinates, operands of two digits
            for word in re.split(r"[\s:|]+", document.content):
                assert word in closed or not is_open(word) or split_of(word) == split


def test_questions_are_short_and_in_lower_case():
    easy = {"charset": "lower"}
    for family in FAMILIES:
        settings = easy if family not in ("caption", "counting", "grounding", "stem") else {}
        for document in documents(family, 10, **settings):
            for asked in document.questions:
                assert re.fullmatch(r"[a-z0-9 .,?:\[\]]+", asked.question)
                assert len(asked.question) <= 60


def test_questions_never_exceed_what_the_config_asks_for():
    for document in documents("table", 20, questions_per_picture=[2, 4]):
        assert 2 <= len(document.questions) <= 4


def test_a_line_is_read_whole_or_by_its_ends():
    for document in documents("ocr_line", 30, charset="lower", line_words=[2, 4]):
        words = document.content.split()
        for asked in document.questions:
            ends = {"first": words[0], "last": words[-1]}
            place = next((place for place in ends if place in asked.question), None)
            assert asked.answer == ends.get(place, document.content)


def test_the_total_of_a_receipt_is_the_sum_of_its_prices():
    for document in documents("receipt", 20):
        *prices, total = [int(price.replace(".", "")) for price in re.findall(r"\d+\.\d\d", document.content)]
        assert sum(prices) == total
        assert "".join(document.transcript).count(".") == len(prices) + 1


def test_sums_are_worked_out_rightly():
    for document in documents("stem", 60, operand=[0, 12]):
        for asked in document.questions:
            if asked.answer == document.content or document.content.startswith("rectangle"):
                continue
            formula = document.content.replace("=", "==")
            if formula.startswith("x"):
                assert eval(formula.split(",")[0].replace("x", asked.answer))
            else:
                assert eval(formula.replace("?", asked.answer))


@pytest.mark.parametrize("family", ["chart_bar", "chart_line", "chart_pie"])
def test_chart_answers_are_printed_on_the_chart(family):
    metrics = set()
    for document in documents(family, 30):
        series = dict(pair.split(":") for pair in document.content.split()[1:])
        for asked in document.questions:
            metrics.add(asked.metric)
            if asked.metric == "relaxed_accuracy":
                assert asked.answer in series.values()
                assert any(asked.answer in row for row in document.transcript)
            else:
                values = sorted(map(int, series.values()))
                assert int(series[asked.answer]) in (values[0], values[-1])
    assert metrics == {"exact_match", "relaxed_accuracy"}


def test_without_printed_values_a_grid_chart_asks_for_none():
    for family in ("chart_bar", "chart_line", "chart_pie"):
        for document in documents(family, 10, value_labels=False):
            assert all(asked.metric == "exact_match" for asked in document.questions)
            values = [pair.split(":")[1] for pair in document.content.split()[1:]]
            assert not any(
                re.search(rf"\b{value}\b", " ".join(document.transcript)) for value in values if len(value) > 2
            )


def test_bars_are_as_long_as_their_values_say():
    settings = {"points": [3, 3], "label_length_chars": [1, 1], "charset": "lower", "horizontal_ratio": 0.0}
    for document in documents("chart_bar", 20, noise_levels=0.0, margin_cells=[0, 0], value=[10, 99], **settings):
        series = [int(pair.split(":")[1]) for pair in document.content.split()[1:]]
        pixels = np.asarray(document.image)
        label_top = pixels.shape[0] - 28
        heights = []
        for column in range(3):  # columns of two cells with a gap of one; the bar's foot stands on the label row
            foot = pixels[label_top - 1, column * 84 + 28]
            heights.append(int((pixels[:label_top, column * 84 + 28] == foot).all(-1).sum()))
        for value, height in zip(series, heights, strict=True):
            assert height / max(heights) == pytest.approx(value / max(series), abs=0.05)


def test_counts_are_the_numbers_of_drawn_things():
    singular = {plural: shape for shape, (plural, _) in SHAPES.items()} | {"shapes": ""}
    for document in documents("counting", 40):
        things = [] if document.content == "nothing" else document.content.split(", ")
        for asked in document.questions:
            *_, color, plural = asked.question.rstrip("?.").split()
            color = color if color in COLORS else ""
            expected = sum(thing.startswith(color) and thing.endswith(singular[plural]) for thing in things)
            assert int(asked.answer) == expected


def test_every_character_of_the_fonts_in_use_has_a_glyph():
    assert covers(latin_font("DejaVuSerif"), "abc XYZ 019 +-*=?,.:[]")
    with pytest.raises(ValueError, match="has no glyph for '中'"):
        documents("ocr_line", 1, charset="中")
