"""Raw samples into shards: whole files or none, and the same samples always give the same bytes.

    with ShardWriter(Path("out"), "notes", samples_per_shard=1000) as writer:
        for sample in samples:
            writer.write(sample)          # out/notes-000000.tar, out/notes-000001.tar, ...

A shard is a plain tar in webdataset's layout. Sample "chart/7" with two pictures is `chart/7.0.png`, `chart/7.1.jpg`
and `chart/7.json`; were the second one a video, `chart/7.1.0000.jpg`, `chart/7.1.0001.jpg`, ... It grows under a
temporary name in the same folder, is flushed to the disk and only then renamed, so a name that ends in .tar is a
finished shard. What a picture is called follows from its first bytes, not from the name that it once had: in other
people's data many a `.jpg` is something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mindvl.data.raw import RawSample, Visual

MAX_KEY_CHARS = 64
"""A tar's plain header has room for names of 100 bytes; longer keys are cut by `safe_key` and end in a hash."""

_BLOCK_BYTES = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]|(?<![A-Za-z0-9_-])/|/(?![A-Za-z0-9_-])|\A_(?=_)")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
)


class ShardWriter:
    """Writes `OUT/{name}-{number:06d}.tar`, a new one after `samples_per_shard` samples or `max_shard_bytes` bytes.

    A context manager: leaving it finishes the last shard; an exception removes the unfinished one and leaves those
    before it. A single sample larger than `max_shard_bytes` gets a shard to itself. Existing shards of the same name
    are replaced. Raises ValueError for a name that is not letters, digits, "-" and "_", and for limits below 1.
    """

    def __init__(self, out: Path, name: str, *, samples_per_shard: int = 1000, max_shard_bytes: int = 1 << 30):
        if not _NAME.fullmatch(name):
            raise ValueError(f"shard name {name!r} is not made of letters, digits, '-' and '_' alone")
        for limit, value in (("samples_per_shard", samples_per_shard), ("max_shard_bytes", max_shard_bytes)):
            if value < 1:
                raise ValueError(f"{limit} is {value}; it must be at least 1")
        self.out, self.name = out, name
        self.samples_per_shard, self.max_shard_bytes = samples_per_shard, max_shard_bytes
        self.paths: list[Path] = []
        """Finished shards, in order."""
        self._finished_samples = 0
        self._open: _OpenShard | None = None

    @property
    def samples(self) -> int:
        """Samples in finished shards and in the one being written."""
        return self._finished_samples + (len(self._open.keys) if self._open else 0)

    def write(self, sample: RawSample) -> None:
        """Append a sample; the record must be JSON, the pictures of a format that readers know.

        Raises ValueError, before anything is written, for a key that the shard already holds or that no member of a
        tar should have (see `check_key`), for a picture of an unknown format and for a record that is not JSON.
        """
        check_key(sample.key)
        members = dict(_picture_files(sample.images))
        members["json"] = encode_record(sample.record)
        size_bytes = sum(_BLOCK_BYTES + -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES for data in members.values())
        if self._open is not None:
            full = len(self._open.keys) >= self.samples_per_shard
            if full or self._open.size_bytes + size_bytes > self.max_shard_bytes:
                self._finish()
        if self._open is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._open = _OpenShard(self.out / f"{self.name}-{len(self.paths):06d}.tar")
        if sample.key in self._open.keys:
            raise ValueError(f"{self._open.path}: key {sample.key!r} is there twice")
        self._open.write(sample.key, members, size_bytes)

    def close(self) -> None:
        """Finish the shard being written, if there is one."""
        if self._open is not None:
            self._finish()

    def _finish(self) -> None:
        shard, self._open = self._open, None
        assert shard is not None
        shard.finish()
        self.paths.append(shard.path)
        self._finished_samples += len(shard.keys)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._open is not None:
            shard, self._open = self._open, None
            shard.discard()


def _picture_files(images: Sequence[Visual]) -> Iterator[tuple[str, bytes]]:
    """(extension, bytes) of the members that hold pictures and frames."""
    for number, visual in enumerate(images):
        if isinstance(visual, bytes):
            yield f"{number}.{picture_extension(visual)}", visual
            continue
        if not visual:
            raise ValueError(f"video {number} of the sample has 0 frames")
        for frame, data in enumerate(visual):
            yield f"{number}.{frame:04d}.{picture_extension(data)}", data


class _OpenShard:
    """One tar under its temporary name."""

    def __init__(self, path: Path):
        from webdataset import TarWriter  # brings torch, which the front door must not wait for

        self.path = path
        self.keys: set[str] = set()
        self.size_bytes = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream: IO[bytes] = self._temporary.open("wb")
        # A fixed mtime: the same samples give the same bytes. PAX headers appear only for keys that need them
        # (not ASCII, or longer than 100 bytes); where none does, the tar is plain ustar.
        self._tar = TarWriter(self._stream, encoder=False, mtime=0, format="PAX_FORMAT")

    def write(self, key: str, members: dict[str, bytes], size_bytes: int) -> None:
        self._tar.write({"__key__": key, **members})
        self.keys.add(key)
        self.size_bytes += size_bytes

    def finish(self) -> None:
        try:
            self._tar.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._temporary.replace(self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        try:
            with contextlib.suppress(OSError):  # on a full disk even closing fails; the file goes all the same
                self._tar.close()  # before its stream, or the collector closes it later and complains
            with contextlib.suppress(OSError):
                self._stream.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def safe_key(text: str) -> str:
    """A key for a shard from any name at all: "ocr_vqa/12.jpg" becomes "ocr_vqa/12~2ejpg". Different names stay so.

    ASCII letters, digits, "-", "_" and single slashes between them are kept; each other byte of the UTF-8 text, "~"
    itself included, becomes "~" and two hex digits, and the empty name becomes "~". So do slashes at either end or
    doubled, and the first of two leading underscores (webdataset passes over folders like `__this__`). What is longer
    than 64 characters afterwards is cut there and ends in "~~" and 16 hex digits of a hash of the whole.
    Not idempotent, as no injective rule with an escape can be: give it foreign names, not keys from shards.
    """
    raw = text.encode("utf-8", "surrogatepass")
    key = _UNSAFE.sub(lambda found: b"~%02x" % found[0][0], raw).decode("ascii") or "~"
    if len(key) <= MAX_KEY_CHARS:
        return key
    return f"{key[:MAX_KEY_CHARS]}~~{hashlib.sha256(raw).hexdigest()[:16]}"


def check_key(key: str) -> None:
    """Raises ValueError, naming `safe_key`, for a key that would leave its folder or be cut wrongly on reading."""
    problem = None
    if not key:
        problem = "is empty"
    elif "." in key:
        problem = "has a dot, where readers cut the key off"
    elif any(letter == "\\" or not letter.isprintable() for letter in key):
        problem = "has a backslash or a character that cannot be printed"
    elif "" in key.split("/"):
        problem = "begins or ends with a slash, or doubles one"
    elif re.match(r"__[^/]*__/", key):
        problem = "lies in a folder that webdataset passes over"
    if problem:
        raise ValueError(f"key {key!r} {problem}; make it with mindvl.data.shard_writer.safe_key")


def picture_extension(data: bytes) -> str:
    """`png`, `jpg`, `webp`, `gif`, `bmp` or `tif`, by the file's first bytes. Raises ValueError for all others."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, extension in _MAGIC:
        if data.startswith(magic):
            return extension
    raise ValueError(f"a picture that begins with {data[:8]!r} is none of png, jpg, webp, gif, bmp, tif")


def encode_record(record: dict[str, Any]) -> bytes:
    """UTF-8 JSON of a record, keys in their own order. Raises ValueError for NaN, lone surrogates and other objects."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the record cannot be written as JSON: {error}") from error
