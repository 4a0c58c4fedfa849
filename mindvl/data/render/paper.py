"""Paper, ink, noise and photographs: what lies under and over the ground truth without changing it.

Contrast holds by construction: light paper keeps every channel above 205 and its ink below 90, dark paper the reverse.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mindvl.data.render.fonts import package_folder

Color = tuple[int, int, int]

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "motorcycle_left.png")
NOISE_PIXELS = 1 << 20


@dataclass(frozen=True)
class Paper:
    """The two colours of a printed page."""

    paper: Color
    ink: Color


def choose_paper(rng: np.random.Generator, *, dark_ratio: float) -> Paper:
    """A random pair of colours that can be read."""
    light = rng.integers(205, 256, 3)
    dark = rng.integers(0, 91, 3)
    pair = (tuple(map(int, light)), tuple(map(int, dark)))
    paper, ink = pair[::-1] if rng.random() < dark_ratio else pair
    return Paper(paper, ink)  # type: ignore[arg-type]


@cache
def noise_tile() -> np.ndarray:
    """One long strip of standard normal noise, drawn once: a crop of it costs a copy, a fresh draw costs the budget."""
    return np.random.default_rng(20240607).standard_normal(NOISE_PIXELS, dtype=np.float32)


def add_noise(pixels: np.ndarray, rng: np.random.Generator, *, levels: float) -> np.ndarray:
    """Grey noise over an RGB picture; its strength is drawn up to `levels`."""
    strength = rng.random() * levels
    start = int(rng.integers(NOISE_PIXELS))
    if strength < 0.5:  # rounds to nothing almost everywhere, and an untouched picture compresses ten times better
        return pixels
    height, width = pixels.shape[:2]
    crop = np.take(noise_tile(), np.arange(start, start + height * width), mode="wrap")
    noise = np.rint(crop * strength).astype(np.int16).reshape(height, width, 1)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def photo_paths() -> list[Path]:
    """The photographs inside an installed scikit-image, in a fixed order; none are ever downloaded."""
    folder = package_folder("skimage")
    return [folder / "data" / name for name in PHOTOS if (folder / "data" / name).is_file()] if folder else []


@cache
def photo(path: Path) -> Image.Image:
    """A photograph in RGB, decoded once for each process."""
    with Image.open(path) as image:
        return image.convert("RGB")


def photo_paper(rng: np.random.Generator, size_pixels: tuple[int, int], paper: Color) -> Image.Image:
    """A random crop of a photograph, washed out towards the paper's colour so that print stays readable."""
    paths = photo_paths()
    if not paths:
        raise ValueError("photo_ratio is above 0 but no photographs were found: pip install mindvl[photos]")
    picture = photo(paths[int(rng.integers(len(paths)))])
    width, height = size_pixels
    scale = max(width / picture.width, height / picture.height, 0.5 + 0.5 * rng.random())
    crop_width, crop_height = min(picture.width, int(width / scale)), min(picture.height, int(height / scale))
    left = int(rng.integers(picture.width - crop_width + 1))
    top = int(rng.integers(picture.height - crop_height + 1))
    box = (left, top, left + crop_width, top + crop_height)
    crop = picture.resize(size_pixels, Image.Resampling.BILINEAR, box=box)
    return Image.blend(crop, Image.new("RGB", size_pixels, paper), 0.6 + 0.25 * rng.random())
