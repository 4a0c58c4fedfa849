"""From a picture file to patches at native resolution.

One rule decides a picture's size, in training and in inference: sides become multiples of 28 pixels and the area is
brought into the pixel budget (Qwen2-VL's smart_resize, arXiv 2409.12191; MindVL keeps it). A 427x640 photograph under
the default budget becomes 420x644: 30x46 patches, 345 visual tokens.

Policy for odd files: format judged by content, first frame only, EXIF rotation applied, transparency laid on white,
and a cap on pixels that is checked on the header, before anything is decoded.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mindvl.batch import ImageGrid
from mindvl.data.patches import cut_patches

MAX_DECODED_PIXELS = 100_000_000
"""Above this, a picture is refused before decoding: a 12 kB file can hold a gigapixel."""

MAX_ASPECT_RATIO = 200

_HEADER_BYTES = 1 << 16
_PNG_EXIF_CHUNKS = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt"))  # the last three hold what some programs write


def smart_resize(
    height: int, width: int, *, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 28 * 28 * 1280
) -> tuple[int, int]:
    """Size (height, width) in pixels that a picture is resized to: multiples of `factor`, area near the budget.

    Transformers' rule to the letter (Qwen2-VL): sides round half to even; the budget is tested on the rounded area
    but scaled from the original one, so the result may miss either bound by a rounding. Raises ValueError above an
    aspect ratio of 200, ZeroDivisionError for a side of 0.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise ValueError(
            f"absolute aspect ratio must be smaller than {MAX_ASPECT_RATIO}: got {ratio:g} ({height}x{width} pixels)"
        )
    resized_height, resized_width = round(height / factor) * factor, round(width / factor) * factor
    if resized_height * resized_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        resized_height = max(factor, math.floor(height / shrink / factor) * factor)
        resized_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif resized_height * resized_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        resized_height = math.ceil(height * grow / factor) * factor
        resized_width = math.ceil(width * grow / factor) * factor
    return resized_height, resized_width


def smart_resize_many(
    height: np.ndarray, width: np.ndarray, *, factor: int = 28, min_pixels: int, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """`smart_resize` of many pictures at once; both sides are 0 where it would refuse."""
    height, width = height.astype(np.float64), width.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        good = np.maximum(height, width) / np.minimum(height, width) <= MAX_ASPECT_RATIO
        rows, columns = (np.rint(side / factor) * factor for side in (height, width))
        large, small = rows * columns > max_pixels, rows * columns < min_pixels
        shrink, grow = np.sqrt(height * width / max_pixels), np.sqrt(min_pixels / (height * width))
        sides = [
            np.where(
                large,
                np.maximum(factor, np.floor(side / shrink / factor) * factor),
                np.where(small, np.ceil(side * grow / factor) * factor, rounded),
            )
            for side, rounded in ((height, rows), (width, columns))
        ]
    resized_height, resized_width = (np.where(good, side, 0).astype(np.int64) for side in sides)
    return resized_height, resized_width


def open_image(data: bytes, *, max_decoded_pixels: int = MAX_DECODED_PIXELS) -> Image.Image:
    """Decode a picture fully, as RGB and upright. Raises ValueError for anything that is not a whole picture."""
    if not data:
        raise ValueError("the picture has 0 bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(image, max_decoded_pixels)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image) if _may_have_exif(image, data) else image)
    except (OSError, SyntaxError, Image.DecompressionBombError, EOFError, struct.error) as error:
        raise ValueError(f"the picture does not decode: {_reason(error)}") from error


_ADDRESS = re.compile(r" <[\w.]+ object at 0x[0-9a-f]+>")


def _reason(error: Exception) -> str:
    """What Pillow says, without the address of the bytes: reasons are counted, and lines of two runs compared."""
    return _ADDRESS.sub("", str(error))


def _check_pixels(image: Image.Image, max_decoded_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_decoded_pixels:
        raise ValueError(
            f"the picture has more pixels than the cap: it has {pixels} pixels, the cap before decoding is "
            f"{max_decoded_pixels}"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16-bit greyscale: keep the upper byte; PIL's own conversion clips everything above 255 to white.
        values = np.asarray(image).astype(np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """(height, width) in pixels as the picture will be seen, read from the header alone.

    Reading EXIF data takes longer than all the rest; a picture that has none is spared it.
    """
    if len(data) > _HEADER_BYTES:
        with contextlib.suppress(ValueError):  # a header further on, or behind the pixels: the whole file says
            return _size_from(data[:_HEADER_BYTES], data)
    return _size_from(data, data)


def _size_from(head: bytes | memoryview, data: bytes | memoryview) -> tuple[int, int]:
    """The size by the first bytes of a picture; `data` is all of it."""
    try:
        with Image.open(io.BytesIO(head)) as image:
            _check_pixels(image, MAX_DECODED_PIXELS)
            width, height = image.size
            turned = _may_have_exif(image, data) and _lies_on_its_side(image)
    except (OSError, SyntaxError, Image.DecompressionBombError, EOFError, struct.error) as error:
        raise ValueError(f"not a picture: {_reason(error)}") from error
    return (width, height) if turned else (height, width)


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether decoding will swap the sides that Pillow says; of a TIFF, newer versions of it have swapped them already.

    They then count the orientation as done, though the header's own tags still say it.
    """
    if image.getexif().get(0x0112, 1) not in (5, 6, 7, 8):
        return False
    if image.format != "TIFF":
        return True
    tags: Any = image
    return image.size == (tags.tag_v2.get(256), tags.tag_v2.get(257))


def _may_have_exif(image: Image.Image, data: bytes | memoryview) -> bool:
    """Pillow finds a JPEG's EXIF data while it opens it; of a PNG it would decode all pixels to look behind them."""
    if image.format in ("JPEG", "MPO"):
        return "exif" in image.info or b"http://ns.adobe.com/xap" in bytes(data[:_HEADER_BYTES])
    return image.format != "PNG" or not _PNG_EXIF_CHUNKS.isdisjoint(_png_chunks(data))


def _png_chunks(data: bytes | memoryview) -> Iterator[bytes]:
    """Types of a PNG's chunks, found by their lengths."""
    place = 8
    while place + 8 <= len(data):
        yield bytes(data[place + 4 : place + 8])
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def patchify(
    image: Image.Image, *, patch: int = 14, merge: int = 2, min_pixels: int, max_pixels: int
) -> tuple[np.ndarray, ImageGrid]:
    """Resize once and cut: (patches, 3 * patch * patch) bytes in merge-block order, and their grid.

    A still picture's two temporal slices would be equal, so one is kept (`mindvl.ops.patch_embed`).
    """
    height, width = smart_resize(
        image.height, image.width, factor=patch * merge, min_pixels=min_pixels, max_pixels=max_pixels
    )
    patches = cut_patches(image, patch=patch, merge=merge, size=(height, width))
    return patches, ImageGrid(1, height // patch, width // patch)
