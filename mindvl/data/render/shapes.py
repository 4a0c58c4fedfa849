"""Coloured shapes that fill their box to the last pixel, so that a true box is the box in the picture."""

import math
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

from mindvl.data.render.context import Context
from mindvl.data.render.paper import Color, Paper

COLORS: dict[str, tuple[Color, str]] = {
    "red": ((220, 30, 40), "红色"),
    "green": ((25, 150, 60), "绿色"),
    "blue": ((35, 75, 220), "蓝色"),
    "yellow": ((240, 200, 10), "黄色"),
    "purple": ((150, 50, 175), "紫色"),
    "orange": ((245, 125, 10), "橙色"),
    "cyan": ((10, 185, 205), "青色"),
    "brown": ((125, 75, 35), "棕色"),
}
SHAPES: dict[str, tuple[str, str]] = {  # plural, Chinese
    "circle": ("circles", "圆形"),
    "square": ("squares", "正方形"),
    "triangle": ("triangles", "三角形"),
    "star": ("stars", "星形"),
    "diamond": ("diamonds", "菱形"),
    "cross": ("crosses", "十字形"),
}
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    color: str
    shape: str

    def name(self, *, chinese: bool) -> str:
        """`red circle`."""
        return f"{COLORS[self.color][1]}{SHAPES[self.shape][1]}" if chinese else f"{self.color} {self.shape}"


def known_things(shapes: tuple[str, ...], colors: tuple[str, ...]) -> list[Thing]:
    """Every pair of the configured shapes and colours."""
    for given, known in ((shapes, SHAPES), (colors, COLORS)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{unknown[0]!r} cannot be drawn; known are {', '.join(known)}")
    return [Thing(color, shape) for color in colors for shape in shapes]


def shape_paper(context: Context) -> Paper:
    """Nearly white or nearly black paper: coloured shapes need a neutral ground."""
    dark = sum(context.paper.paper) < sum(context.paper.ink)
    low, high = (0, 26) if dark else (235, 256)
    paper: Color = tuple(map(int, context.rng.integers(low, high, 3)))  # type: ignore[assignment]
    return Paper(paper, context.paper.ink)


def draw_thing(context: Context, picture: Image.Image, thing: Thing, *, left: int, top: int, size_pixels: int) -> None:
    """Paints a thing whose box is exactly (left, top, left + size, top + size)."""
    color = COLORS[thing.color][0]
    shifts = context.rng.integers(-10, 11, 3).tolist()
    shade = tuple(min(max(value + shift, 0), 255) for value, shift in zip(color, shifts, strict=True))
    picture.paste(shade, (left, top), shape_mask(thing.shape, size_pixels))


@cache
def shape_mask(shape: str, size_pixels: int) -> Image.Image:
    """The smooth ink mask of a shape that touches all four sides of its box."""
    big = size_pixels * SUPERSAMPLING
    mask = Image.new("L", (big, big))
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
    else:
        pen.polygon([(x * (big - 1), y * (big - 1)) for x, y in _outline(shape)], fill=255)
    return mask.reduce(SUPERSAMPLING)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit square."""
    if shape == "square":
        return [(0, 0), (1, 0), (1, 1), (0, 1)]
    if shape == "triangle":
        return [(0.5, 0), (1, 1), (0, 1)]
    if shape == "diamond":
        return [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]
    if shape == "cross":
        a, b = 0.33, 0.67
        return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]
    angles = [math.pi * step / 5 for step in range(10)]
    points = [(math.sin(a) * (1, 0.45)[i % 2], -math.cos(a) * (1, 0.45)[i % 2]) for i, a in enumerate(angles)]
    xs, ys = zip(*points, strict=True)
    return [((x - min(xs)) / (max(xs) - min(xs)), (y - min(ys)) / (max(ys) - min(ys))) for x, y in points]
