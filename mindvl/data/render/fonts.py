"""The same letters look the same on every machine because the fonts travel with a package.

Latin text uses the DejaVu fonts inside matplotlib, found without importing it. Chinese text uses the first of: the
configured path, IPAexGothic inside matplotlib_fontja, the usual system paths. A character is only drawn with a font
whose own character map covers it: a missing glyph would be printed as a box, and the ground truth would be a lie.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SYSTEM_CJK = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/wqy-microhei/wqy-microhei.ttc",
)


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@cache
def latin_font(name: str) -> Path:
    """The file of a DejaVu font, for instance `DejaVuSans-Bold`."""
    folder = package_folder("matplotlib")
    path = folder / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf" if folder else None
    if path is None or not path.is_file():
        raise ValueError(f"font {name} is not there ({path}): pip install matplotlib")
    return path


@cache
def chinese_font(configured: str) -> Path:
    """The file of a font with Chinese glyphs; a configured one that is missing is an error, not a reason to search."""
    if configured:
        if not Path(configured).is_file():
            raise ValueError(f"cjk_font {configured} is not a file")
        return Path(configured)
    package = package_folder("matplotlib_fontja")
    places = [package / "fonts" / "ipaexg.ttf"] if package else []
    for path in [*places, *map(Path, SYSTEM_CJK)]:
        if path.is_file():
            return path
    raise ValueError("chinese_ratio is above 0 but no font with Chinese glyphs was found: pip install mindvl[cjk]")


@cache
def covered(path: Path) -> frozenset[int]:
    """The code points for which a font really has a glyph."""
    from fontTools.ttLib import TTFont  # slow to import, and a worker needs it only once for each font

    with TTFont(path, fontNumber=0, lazy=True) as font:
        return frozenset(font.getBestCmap())


def covers(path: Path, text: str) -> bool:
    """Whether every visible character of a text has a glyph in the font."""
    known = covered(path)
    return all(ord(char) in known for char in text if char != " ")


def require(path: Path, text: str) -> str:
    """The text itself if the font can print it; the error names the characters that it cannot."""
    if not covers(path, text):
        missing = "".join(sorted({char for char in text if char != " " and ord(char) not in covered(path)}))
        raise ValueError(f"font {path.name} has no glyph for {missing!r}")
    return text


@cache
def sized(path: Path, size_pixels: int) -> ImageFont.FreeTypeFont:
    """A font at one size. Basic layout: Raqm is not installed everywhere and moves glyphs."""
    return ImageFont.truetype(path, size_pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def cell_glyph(path: Path, size_pixels: int, char: str, cell_pixels: int) -> tuple[np.ndarray, int, int]:
    """A glyph's ink mask with its row and column inside a cell.

    Columns centre the ink. Rows keep one baseline for all letters, so that a comma stays low and a quote stays high;
    only ideographs, which fill their em square, are centred by ink.
    """
    left, top, right, bottom = (round(edge) for edge in sized(path, size_pixels).getbbox(char, anchor="ls"))
    width, height = max(right - left, 1), max(bottom - top, 1)
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text((-left, -top), char, font=sized(path, size_pixels), fill=255, anchor="ls")
    # DejaVu's ascenders rise 0.76 and its descenders fall 0.24 of the size; their middle is 0.26 above the baseline.
    row = round(cell_pixels / 2 + 0.26 * size_pixels) + top
    if ord(char) >= 0x2E80:
        row = (cell_pixels - height) // 2
    mask = np.array(picture)[:cell_pixels, :cell_pixels]
    height, width = mask.shape
    return mask, min(max(row, 0), cell_pixels - height), (cell_pixels - width) // 2
