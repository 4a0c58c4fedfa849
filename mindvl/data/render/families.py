"""The kinds of pictures that can be drawn, by the names that configs use."""

from collections.abc import Callable

from mindvl.data.render.charts import chart_bar, chart_line
from mindvl.data.render.document import Document
from mindvl.data.render.forms import key_value, receipt
from mindvl.data.render.grounding import grounding
from mindvl.data.render.pie import chart_pie
from mindvl.data.render.scenes import caption, counting
from mindvl.data.render.stem import stem
from mindvl.data.render.table import table
from mindvl.data.render.text import ocr_line, ocr_paragraph

FAMILIES: dict[str, Callable[..., Document]] = {
    "caption": caption,
    "counting": counting,
    "ocr_line": ocr_line,
    "ocr_paragraph": ocr_paragraph,
    "receipt": receipt,
    "key_value": key_value,
    "table": table,
    "chart_bar": chart_bar,
    "chart_line": chart_line,
    "chart_pie": chart_pie,
    "grounding": grounding,
    "stem": stem,
}

# Families whose pictures are character grids, so that their transcripts can stand in for the picture.
TEXT_FAMILIES = frozenset(FAMILIES) - {"caption", "counting", "grounding"}
