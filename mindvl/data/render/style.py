"""How pictures look, apart from what they say: one set of settings that every family shares.

`cell_pixels: 28` makes a text grid: each glyph sits in its own 28 x 28 cell, so one glyph is one visual token of a
model that sees 28 x 28 pixels at a time. `cell_pixels: 0` makes free layouts with proportional fonts at any size.
"""

from dataclasses import dataclass

from mindvl.data.render.phrases import PHRASES

Range = tuple[int, int]

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of a picture.

    cell_pixels: side of a grid cell; 0 for free layouts.
    jitter_pixels: in a grid, a glyph or shape is moved by up to this many pixels from the middle of its cell.
    margin_cells: empty cells on each side of a grid, drawn for each side of each picture.
    glyph_ratio: font size over cell size.
    width_pixels, height_pixels: page size of free layouts, and of grounding pictures in both layouts.
    font_pixels: font size of free layouts; the page grows where even the smallest does not fit.
    noise_levels: highest standard deviation of grey noise, in levels of 255; below 0.5 a picture stays clean.
    dark_paper_ratio: share of pictures with light ink on dark paper.
    photo_ratio: share of free layouts printed over a washed-out photograph (needs scikit-image's files).
    spelling: made-up words are "pronounceable" syllables or "random" characters of the charset.
    chinese_ratio: share of documents with Chinese questions and Chinese words.
    cjk_font: path of a font with Chinese glyphs; empty to search the usual places.
    questions_per_picture: how many questions are drawn for a picture, if it has as many.
    question_kinds: ask only these kinds (the names in phrases.py); empty for all that a picture has.
    box_snap_pixels: the corners of grounding boxes are multiples of this.
    """

    cell_pixels: int = 0
    jitter_pixels: int = 1
    margin_cells: Range = (0, 1)
    glyph_ratio: tuple[float, float] = (0.65, 0.8)
    width_pixels: Range = (280, 840)
    height_pixels: Range = (280, 840)
    font_pixels: Range = (14, 40)
    fonts: tuple[str, ...] = FONTS
    cjk_font: str = ""
    noise_levels: float = 3.0
    dark_paper_ratio: float = 0.2
    photo_ratio: float = 0.0
    spelling: str = "pronounceable"
    chinese_ratio: float = 0.0
    box_snap_pixels: int = 1
    questions_per_picture: Range = (1, 3)
    question_kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cell_pixels < 0 or 0 < self.cell_pixels < 8:
            raise ValueError(f"cell_pixels is {self.cell_pixels}; it must be 0 (free layout) or at least 8")
        if self.cell_pixels and 4 * self.jitter_pixels > self.cell_pixels:
            raise ValueError(
                f"jitter_pixels {self.jitter_pixels} moves glyphs out of cells of {self.cell_pixels} pixels"
            )
        if self.spelling not in ("pronounceable", "random"):
            raise ValueError(f"spelling is {self.spelling!r}; known are pronounceable, random")
        if self.box_snap_pixels < 1:
            raise ValueError(f"box_snap_pixels is {self.box_snap_pixels}; it must be at least 1")
        if self.questions_per_picture[0] < 1:
            raise ValueError(f"questions_per_picture starts at {self.questions_per_picture[0]}; it must be at least 1")
        if unknown := [kind for kind in self.question_kinds if kind not in PHRASES]:
            raise ValueError(f"question_kinds has {unknown[0]!r}; known are {', '.join(PHRASES)}")
        for name in ("dark_paper_ratio", "photo_ratio", "chinese_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        unknown = [name for name in self.fonts if name not in FONTS]
        if unknown or not self.fonts:
            raise ValueError(f"fonts has {unknown or 'nothing'}; known fonts are {', '.join(FONTS)}")
