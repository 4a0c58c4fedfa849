"""WebDataset shards, read by offset: each tar has a small index beside it, and a sample is a seek and a read.

A shard is an ordinary tar in webdataset's layout: `<key>.json` holds the record, `<key>.<n>.<ext>` its pictures. The
index, `<shard>.index.npz`, is made once per tokenizer and lists where each member lies, how large each picture is and
how many tokens the text has; packs are planned from it without opening a picture.

Tar has no checksum over members, and Python's reader takes a damaged header for the end of the archive. So the index
insists on the end-of-archive marks: a tar that ends early is an error here, never a shorter epoch.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindvl.data.chat import ChatEncoder
from mindvl.data.images import image_size
from mindvl.data.sample import parse_sample
from mindvl.data.tokenizer import tokenizer_fingerprint

_BLOCK_BYTES = 512
_IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")
_MEMBER = re.compile(r"^(?P<key>(?:.*/)?[^./][^/.]*)\.(?P<extension>[^/]+)$")


@dataclass(frozen=True)
class ShardIndex:
    """Columns over the samples of one shard, and over their pictures (ordered by sample)."""

    key: np.ndarray
    record_offset: np.ndarray
    record_bytes: np.ndarray
    text_tokens: np.ndarray
    """Tokens of the conversation with one placeholder per picture."""
    answer_tokens: np.ndarray
    """Supervised tokens when answers are learnt."""
    problem: np.ndarray
    """Why the sample cannot be used; empty for a good one."""
    first_image: np.ndarray
    """Samples + 1: pictures of sample i are rows first_image[i] to first_image[i+1]."""
    image_offset: np.ndarray
    image_bytes: np.ndarray
    image_height: np.ndarray
    image_width: np.ndarray
    shard_bytes: np.ndarray
    shard_mtime_ns: np.ndarray
    """With the size it tells a shard that was written anew: tars of one size are common, they are padded to 10 KiB."""
    fingerprint: np.ndarray
    """Of the tokenizer that counted the tokens."""

    def __len__(self) -> int:
        return len(self.key)


def find_shards(pattern: str | Path) -> list[Path]:
    """Shards named by a folder, a file or a glob, sorted. Raises ValueError when there are none."""
    pattern = Path(pattern)
    if pattern.is_dir():
        found = sorted(pattern.glob("*.tar"))
    elif pattern.is_file():
        found = [pattern]
    else:
        if not pattern.parent.is_dir():
            raise ValueError(f"no shards at {pattern}: the folder {pattern.parent} does not exist")
        found = sorted(pattern.parent.glob(pattern.name))
    if not found:
        raise ValueError(f"no shards at {pattern}: 0 files match")
    return found


def shard_members(path: Path) -> list[tarfile.TarInfo]:
    """Regular members of a tar. Raises ValueError when the archive is empty, damaged or ends early."""
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise ValueError(f"shard {path} is empty: 0 bytes")
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg()]
    except tarfile.TarError as error:
        raise ValueError(f"shard {path} is not a readable tar: {error}") from error
    if not members:
        raise ValueError(f"shard {path} is empty: no sample in {size_bytes} bytes")
    end = max(member.offset_data + -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES for member in members)
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(2 * _BLOCK_BYTES)
    if len(mark) < 2 * _BLOCK_BYTES or any(mark):
        raise ValueError(
            f"shard {path} ends early: members stop at byte {end} of {size_bytes} without an end-of-archive mark; "
            f"samples after {members[-1].name} are lost"
        )
    return members


def index_shard(path: Path, encoder: ChatEncoder, fingerprint: str) -> ShardIndex:
    """Read a shard once: records and picture headers, no pixels."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in shard_members(path):
        match = _MEMBER.match(member.name)
        if match is None:
            raise ValueError(f"shard {path}: member {member.name!r} has no key and extension")
        extensions = samples.setdefault(match["key"], {})
        if match["extension"].lower() in extensions:
            raise ValueError(f"shard {path}: member {member.name!r} is there twice")
        extensions[match["extension"].lower()] = member
    rows, images = [], []
    first_image = [0]
    with path.open("rb") as file:
        for key, members in samples.items():
            row, pictures = _index_sample(file, members, encoder)
            rows.append((key, *row))
            images.extend(pictures)
            first_image.append(len(images))
    columns = list(zip(*rows, strict=True))
    image_columns = [np.asarray(column, np.int64) for column in zip(*images, strict=True)] or [
        np.zeros(0, np.int64)
    ] * 4
    return ShardIndex(
        key=np.asarray(columns[0]),
        record_offset=np.asarray(columns[1], np.int64),
        record_bytes=np.asarray(columns[2], np.int64),
        text_tokens=np.asarray(columns[3], np.int64),
        answer_tokens=np.asarray(columns[4], np.int64),
        problem=np.asarray(columns[5]),
        first_image=np.asarray(first_image, np.int64),
        image_offset=image_columns[0],
        image_bytes=image_columns[1],
        image_height=image_columns[2],
        image_width=image_columns[3],
        shard_bytes=np.asarray(path.stat().st_size),
        shard_mtime_ns=np.asarray(path.stat().st_mtime_ns),
        fingerprint=np.asarray(fingerprint),
    )


def _index_sample(file, members: dict[str, tarfile.TarInfo], encoder: ChatEncoder):
    """One row of the index, and the rows of its pictures."""
    pictures = picture_members(members)
    record = members.get("json")
    if record is None:
        return (0, 0, 0, 0, "no .json record"), []
    where = (record.offset_data, record.size)
    try:
        messages = parse_sample(_read(file, *where))["messages"]
        chat = encoder.encode(messages)
    except ValueError as error:
        return (*where, 0, 0, _reason(error)), []
    if chat.num_images != len(pictures):
        problem = f"{chat.num_images} image placeholders, {len(pictures)} images"
        return (*where, len(chat.input_ids), sum(chat.supervised), problem), []
    sizes = []
    try:
        for member in pictures:
            sizes.append(image_size(_read(file, member.offset_data, member.size)))
    except ValueError as error:
        return (*where, len(chat.input_ids), sum(chat.supervised), _reason(error)), []
    rows = [(m.offset_data, m.size, *size) for m, size in zip(pictures, sizes, strict=True)]
    problem = "" if any(chat.supervised) else "no supervised token"
    return (*where, len(chat.input_ids), sum(chat.supervised), problem), rows


def picture_members(members: dict[str, tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """A sample's pictures in the order of their numbers: `0.png` before `10.jpg`; `members` is by extension."""
    found = [name for name in members if name.rsplit(".", 1)[-1] in _IMAGE_EXTENSIONS]
    return [members[name] for name in sorted(found, key=_picture_order)]


def read_member(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The bytes of a tar member."""
    return _read(file, member.offset_data, member.size)


def _picture_order(extension: str) -> tuple:
    number = extension.split(".", 1)[0]
    return (0, int(number), extension) if number.isdigit() else (1, 0, extension)


def _reason(error: Exception) -> str:
    """Messages carry the sample's own numbers; for counting by reason the part before them is enough."""
    return str(error).split(":")[0][:80]


def _read(file, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes at offset {offset}, the index says {size}")
    return data


def load_index(path: Path, encoder: ChatEncoder, fingerprint: str) -> ShardIndex:
    """The shard's index from the file beside it, made anew if shard or tokenizer changed since."""
    beside = path.with_name(path.name + ".index.npz")
    if beside.exists():
        with np.load(beside, allow_pickle=False) as stored:
            if set(stored.files) == {item.name for item in fields(ShardIndex)}:
                index = ShardIndex(**{name: stored[name] for name in stored.files})
                stat = path.stat()
                as_written = (int(index.shard_bytes), int(index.shard_mtime_ns)) == (stat.st_size, stat.st_mtime_ns)
                if str(index.fingerprint) == fingerprint and as_written:
                    return index
    index = index_shard(path, encoder, fingerprint)
    temporary = beside.with_name(f".{beside.name}.{os.getpid()}.npz")
    np.savez(temporary, **{item.name: getattr(index, item.name) for item in fields(ShardIndex)})
    temporary.replace(beside)
    return index


def load_indexes(paths: Iterable[Path], encoder: ChatEncoder) -> list[ShardIndex]:
    """Indexes of many shards."""
    fingerprint = tokenizer_fingerprint(encoder.tokenizer)
    return [load_index(path, encoder, fingerprint) for path in paths]


class ShardReader:
    """Reads samples by offset; keeps a few files open. One per data worker."""

    def __init__(self, max_open_files: int = 32):
        self._files: dict[Path, BinaryIO] = {}
        self._max_open_files = max_open_files

    def read(self, path: Path, offset: int, size: int) -> bytes:
        file = self._files.pop(path, None) or path.open("rb")
        self._files[path] = file
        if len(self._files) > self._max_open_files:
            self._files.pop(next(iter(self._files))).close()
        return _read(file, offset, size)

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        self.close()
