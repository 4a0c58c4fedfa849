"""Odd picture files have a policy each; whatever is no whole picture is a ValueError."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mindvl.data.images import image_size, open_image, patchify

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    with io.BytesIO() as stream:
        image.save(stream, format, **options)
        return stream.getvalue()


def colours(image: Image.Image) -> set:
    return {colour for _, colour in image.getcolors()}


def half_transparent(mode: str = "RGBA") -> Image.Image:
    """Red on the left, nothing (over green) on the right."""
    image = Image.new("RGBA", (4, 2), (*RED, 255))
    image.paste((*GREEN, 0), (2, 0, 4, 2))
    return image.convert(mode)


def two_coloured(size: tuple[int, int] = (6, 4)) -> Image.Image:
    """Red above, green below."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (0, size[1] // 2, *size))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright_and_its_header_size_is_the_size_seen(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(two_coloured((32, 16)), format, exif=exif)
    upright = open_image(data)
    assert image_size(data) == (upright.height, upright.width)
    assert upright.size == ((16, 32) if orientation >= 5 else (32, 16))
    first = {1: RED, 2: RED, 3: GREEN, 4: GREEN, 5: RED, 6: GREEN, 7: GREEN, 8: RED}[orientation]
    assert np.abs(np.asarray(upright)[1, 1].astype(int) - first).max() < 60  # JPEG and WebP are lossy


def test_transparency_is_laid_on_white():
    assert colours(open_image(saved(half_transparent()))) == {RED, WHITE}


def test_grey_with_transparency_is_laid_on_white():
    left_black = Image.new("LA", (4, 2), (0, 255))
    left_black.paste((77, 0), (2, 0, 4, 2))
    assert colours(open_image(saved(left_black))) == {(0, 0, 0), WHITE}


def test_a_palette_with_a_transparent_entry_is_laid_on_white():
    image = Image.new("P", (4, 2), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (2, 0, 4, 2))
    assert colours(open_image(saved(image))) == {RED, GREEN}
    assert colours(open_image(saved(image, transparency=1))) == {RED, WHITE}
    assert colours(open_image(saved(image, "GIF", transparency=1))) == {RED, WHITE}


def test_an_rgb_picture_with_a_transparent_colour_is_laid_on_white():
    image = Image.new("RGB", (4, 2), RED)
    image.paste(GREEN, (2, 0, 4, 2))
    assert colours(open_image(saved(image, transparency=GREEN))) == {RED, WHITE}


def test_16_bit_grey_keeps_its_upper_byte():
    levels = np.array([[0, 256, 32768, 65535]], np.uint16)
    grey = np.asarray(open_image(saved(Image.fromarray(levels))))[0, :, 0]
    assert np.abs(grey.astype(int) - (levels[0] // 256)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_rgb(mode):
    format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    image = open_image(saved(Image.new("RGB", (16, 16), WHITE).convert(mode), format))
    assert image.mode == "RGB" and np.asarray(image).min() >= 250


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    assert colours(open_image(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))) == {RED}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("kept_ratio", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(format, kept_ratio, picture):
    data = picture(40, 40, format=format)
    with pytest.raises(ValueError, match="does not decode"):
        open_image(data[: int(len(data) * kept_ratio)])


def test_a_damaged_checksum_is_refused(picture):
    data = bytearray(picture(40, 40))
    data[data.index(b"IDAT") + 100] ^= 255
    with pytest.raises(ValueError, match="does not decode"):
        open_image(bytes(data))


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"<svg/>", bytes(1000)])
def test_what_is_no_picture_is_refused_by_decoder_and_header_reader(data):
    with pytest.raises(ValueError, match="does not decode"):
        open_image(data)
    with pytest.raises(ValueError, match="not a picture"):
        image_size(data)


def test_zero_bytes_are_refused():
    with pytest.raises(ValueError, match="0 bytes"):
        open_image(b"")
    with pytest.raises(ValueError, match="not a picture"):
        image_size(b"")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, about the block
def test_a_damaged_exif_block_is_a_value_error_at_worst():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    data = saved(two_coloured(), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    for place in range(start, data.index(b"hello")):
        for value in range(16):
            damaged = bytearray(data)
            damaged[place] = value
            try:
                assert open_image(bytes(damaged)).size in ((4, 6), (6, 4))
            except ValueError:
                continue


def one_bit_png(side: int) -> bytes:
    """A PNG of side x side pixels in a few kilobytes, written without decoding it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + -(-side // 8))
    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_the_pixel_cap_is_checked_on_the_header_before_anything_is_decoded(monkeypatch):
    data = one_bit_png(9000)  # 81 million pixels in 12 kB
    assert len(data) < 20_000

    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decoded)
    with pytest.raises(ValueError, match="has 81000000 pixels, the cap before decoding is 80000000"):
        open_image(data, max_decoded_pixels=80_000_000)


@pytest.mark.parametrize("name", [b"eXIf", None])
def test_the_size_in_a_header_is_read_without_decoding_and_agrees_with_the_picture(name, monkeypatch, picture):
    """EXIF data behind the pixels of a PNG are found; a PNG without is not decoded to look for them."""
    data = picture(20, 30)
    if name is None:
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("decoded"))
        assert image_size(data) == (20, 30)
        return
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    late = data[: data.index(b"IEND") - 4] + chunk + data[data.index(b"IEND") - 4 :]
    upright = open_image(late)
    assert image_size(late) == (upright.height, upright.width) == (30, 20)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_gigapixel_file_is_refused_with_the_default_cap(side):
    header = one_bit_png(8)
    huge = header.replace(struct.pack(">II", 8, 8), struct.pack(">II", side, side))
    body = huge[12:29]
    huge = huge[:29] + struct.pack(">I", zlib.crc32(body)) + huge[33:]
    for read in (open_image, image_size):
        with pytest.raises(ValueError, match=r"144000000 pixels, the cap .* 100000000|exceeds limit"):
            read(huge)


def normalised(patches: np.ndarray, processor) -> np.ndarray:
    """Our bytes as transformers shows them to the tower: normalised, each frame twice."""
    mean, std = (np.asarray(values, np.float32).reshape(3, 1) for values in (processor.image_mean, processor.image_std))
    floats = (patches.reshape(len(patches), 3, -1).astype(np.float32) / 255 - mean) / std
    return np.repeat(floats[:, :, None], 2, axis=2).reshape(len(patches), -1)


@pytest.mark.parametrize("size", [(56, 84), (112, 28), (100, 77), (427, 640), (20, 20), (600, 30)])
def test_patches_equal_those_of_transformers(size, picture):
    height, width = size
    processor = Qwen2VLImageProcessorPil(min_pixels=4 * 784, max_pixels=200 * 784)
    image = open_image(picture(height, width))
    stock = processor(images=[image], return_tensors="pt")
    patches, grid = patchify(image, min_pixels=4 * 784, max_pixels=200 * 784)
    assert stock["image_grid_thw"].tolist() == [[grid.frames, grid.height, grid.width]]
    ours = torch.from_numpy(normalised(patches, processor))
    torch.testing.assert_close(ours, stock["pixel_values"], rtol=1e-5, atol=1e-5)


def test_patches_are_bytes_in_one_contiguous_block(picture):
    patches, grid = patchify(open_image(picture(56, 84)), min_pixels=784, max_pixels=7840)
    assert patches.dtype == np.uint8 and patches.flags.c_contiguous and patches.shape == (24, 588)
    assert (grid.height, grid.width) == (4, 6)
