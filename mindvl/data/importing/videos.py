"""Videos of foreign records, as frames: sampled when they are imported, so that no training run decodes a video.

    clip.mp4     30 s at 25 frames a second, 750 in all   ->   60 frames, 2 a second, each a JPEG of its own
    clip/        a folder of 40 frames, by their numbers  ->   the same files, byte for byte
    ["a.jpg", "b.jpg", ...]                                    the same

Which frames are taken is transformers' rule for Qwen2-VL: so many a second, at least 4 and at most 768, an even number,
spread evenly over the video. Frames that are files already have no clock: all are taken, up to the same maximum. What
Pillow reads (GIF, WebP, APNG) stays lossless; the rest is decoded by PyAV (extra `video`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindvl.data.importing.outcome import Refusal
from mindvl.data.importing.pictures import PictureFolder
from mindvl.data.records import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from PIL import Image

_JPEG_QUALITY = 95
_ENDS_EARLY_RATIO = 0.9
_STILL_MS = 100
"""How long browsers show a frame whose file says 0."""
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg"
"""No playlists: they would have other files opened."""
_PILLOW_FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP", "TIFF")


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are kept, and how large.

    Raises ValueError for numbers that are not above 0.
    """

    fps: float = 2.0
    """Frames per second."""
    max_frames: int = 768
    min_frames: int = 4
    """Of a short video, if it has them."""
    max_pixels: int = 768 * 28 * 28
    """Area of a frame above which it is shrunk, to the size that training would give it; of decoded frames only."""

    def __post_init__(self):
        for name in ("fps", "max_frames", "min_frames", "max_pixels"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of videos is {getattr(self, name)}; it must be above 0")

    def indices(self, total: int, fps: float | None) -> list[int]:
        """Numbers of the frames that are kept of `total`, `fps` of which were filmed in a second (None if unknown)."""
        most = min(self.max_frames, total)
        wanted = most if fps is None else min(max(total / fps * self.fps, self.min_frames), most)
        count = max(1, int(wanted) // 2 * 2)
        return [number * total // count for number in range(count)]


@dataclass(frozen=True)
class Video:
    """Frames as picture files, and how many of them are shown in a second, if that is known."""

    frames: tuple[bytes, ...]
    fps: float | None = None


def load_video(reference: Any, folder: PictureFolder, sampling: FrameSampling) -> Video:
    """The frames of a video given as a file, as a folder of frames or as a list of frame files, all under `folder`.

    Raises Refusal with the reason when there is no video to be had, ValueError when PyAV would be needed and is absent.
    """
    if isinstance(reference, str):
        path = folder.find(reference, what="video")
        if path.is_file():
            return _decode(path, sampling)
        reference = _frame_files(path)
    if not isinstance(reference, Sequence) or not all(isinstance(item, str | bytes) for item in reference):
        raise Refusal("the video is given neither as a path nor as a list of frames")
    if not reference:
        raise Refusal("the video has no frames")
    if len(reference) > sampling.max_frames:
        reference = [reference[number] for number in sampling.indices(len(reference), None)]
    return Video(_of_one_size([folder.load(item) for item in reference]))


def _frame_files(folder: Path) -> list[str]:
    """Picture files of a folder in the order of the numbers in their names: frame_2 before frame_10."""
    names = [path.name for path in folder.iterdir() if path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS]
    return [str(folder / name) for name in sorted(names, key=_numbered)]


def _numbered(name: str) -> tuple[list[str | int], str]:
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))], name


def _of_one_size(frames: list[bytes]) -> tuple[bytes, ...]:
    from mindvl.data.images import image_size

    if len({image_size(frame) for frame in frames}) > 1:
        raise Refusal("the frames of a video differ in size")
    return tuple(frames)


def _decode(path: Path, sampling: FrameSampling) -> Video:
    from PIL import Image

    try:
        with Image.open(path, formats=_PILLOW_FORMATS) as image:
            return _read_with_pillow(image, sampling)
    except Image.UnidentifiedImageError:
        return _read_with_pyav(path, sampling)
    except Image.DecompressionBombError as error:
        raise Refusal("the video has more pixels than the cap") from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise Refusal("the video does not decode") from error


def _read_with_pillow(image: Image.Image, sampling: FrameSampling) -> Video:
    """Frames of a GIF, WebP or APNG; of a still picture, one."""
    _check_pixels(image.height, image.width)
    total, shown_ms = getattr(image, "n_frames", 1), 0.0
    for number in range(total):
        image.seek(number)
        image.load()  # of a WebP, this is what tells how long the frame is shown
        shown_ms += image.info.get("duration") or _STILL_MS
    fps = 1000 * total / shown_ms if total > 1 else None
    indices, frames = sampling.indices(total, fps), []
    for number in indices:
        image.seek(number)
        # Transparency stays in the file; it is laid on white where all pictures are opened.
        transparent = "A" in image.getbands() or "transparency" in image.info
        frames.append(_encoded(image.convert("RGBA" if transparent else "RGB"), "PNG", sampling))
    return Video(tuple(frames), _kept_fps(fps, len(indices), total))


def _read_with_pyav(path: Path, sampling: FrameSampling) -> Video:
    with _opened(path) as stream:
        total, fps = _count_packets(stream), float(stream.average_rate) if stream.average_rate else None
    indices = sampling.indices(total, fps)
    frames, seen = _frames_at(path, indices, sampling)
    if len(frames) < len(indices):  # not every packet was a frame
        total = seen
        indices = sampling.indices(total, fps)
        frames, _ = _frames_at(path, indices, sampling)
    if not frames:
        raise Refusal("the video has no frames")
    return Video(tuple(frames), _kept_fps(fps, len(indices), total))


def _frames_at(path: Path, indices: list[int], sampling: FrameSampling) -> tuple[list[bytes], int]:
    """The frames of such numbers, upright, and how many were decoded to have them."""
    frames: list[bytes] = []
    seen = 0
    with _opened(path) as stream:
        stream.thread_type = "AUTO"
        for frame in stream.container.decode(stream):
            if seen == indices[len(frames)]:
                picture = frame.to_image()
                picture = picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
                frames.append(_encoded(picture, "JPEG", sampling))
            seen += 1
            if len(frames) == len(indices):
                break
    return frames, seen


def _count_packets(stream: Any) -> int:
    """Frames by their packets, without decoding. Raises Refusal when they stop long before the video's own end."""
    count, end = 0, None
    for packet in stream.container.demux(stream):
        if packet.size:
            count += 1
            if packet.pts is not None:
                end = max(end or 0.0, float((packet.pts + (packet.duration or 0)) * stream.time_base))
    declared = stream.container.duration and stream.container.duration / 1e6
    if stream.duration:
        declared = float(stream.duration * stream.time_base)
    if end is not None and declared and end < _ENDS_EARLY_RATIO * declared:
        raise Refusal("the video ends early")
    return count


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The video stream of a file; what goes wrong in the block is the file's fault."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path} needs PyAV to be read: pip install 'mindvl[video]'") from error
    try:
        with av.open(str(path), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise Refusal("the file holds no video")
            stream = container.streams.video[0]
            _check_pixels(stream.height, stream.width)
            yield stream
    except av.FFmpegError as error:
        raise Refusal("the video does not decode") from error


def _check_pixels(height: int, width: int) -> None:
    from mindvl.data.images import MAX_DECODED_PIXELS

    if height * width > MAX_DECODED_PIXELS:
        raise Refusal("the video has more pixels than the cap")


def _encoded(frame: Image.Image, format: str, sampling: FrameSampling) -> bytes:
    from PIL import Image

    from mindvl.data.images import smart_resize

    if frame.height * frame.width > sampling.max_pixels:
        try:
            height, width = smart_resize(frame.height, frame.width, min_pixels=0, max_pixels=sampling.max_pixels)
        except ValueError as error:
            raise Refusal("the video's frames are too narrow") from error
        frame = frame.resize((width, height), Image.Resampling.BICUBIC)
    with io.BytesIO() as stream:
        frame.save(stream, format, quality=_JPEG_QUALITY)
        return stream.getvalue()


def _kept_fps(fps: float | None, kept: int, total: int) -> float | None:
    return None if fps is None else round(fps * kept / total, 3)
