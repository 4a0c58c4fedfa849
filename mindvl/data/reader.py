"""Reads samples by offset, from local tars and from URLs, and sees when a byte has changed since indexing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import xxhash

from mindvl.data.index import ShardIndex
from mindvl.data.raw import RawSample, Visual
from mindvl.data.reasons import reason_of
from mindvl.data.records import (
    RECORD_KINDS,
    as_visuals,
    frame_numbers,
    group_members,
    members_problem,
    parse_record,
    picture_members,
    record_members,
)
from mindvl.data.storage import SeekableFile, is_url, open_for_reading, read_range, version_of
from mindvl.data.tar import Member, scan_members


class ShardReader:
    """Ranges of bytes of shards; keeps a few local files open. One per data worker."""

    def __init__(self, max_open_files: int = 32):
        self._files: dict[str, SeekableFile] = {}
        self._max_open_files = max_open_files

    def read(self, location: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`. Raises ValueError with both numbers when the shard ends before."""
        data = read_range(location, offset, size) if is_url(location) else self._read_local(location, offset, size)
        if len(data) != size:
            raise ValueError(
                f"the shard is not what was indexed: {location} has {len(data)} bytes at offset {offset}, "
                f"its index says {size}"
            )
        return data

    def _read_local(self, location: str, offset: int, size: int) -> bytes:
        file = self._files.pop(location, None) or open_for_reading(location)
        self._files[location] = file
        if len(self._files) > self._max_open_files:
            self._files.pop(next(iter(self._files))).close()
        file.seek(offset)
        return file.read(size)

    def sample(self, location: str, index: ShardIndex, row: int) -> tuple[dict, list[Visual]]:
        """The record, pictures and videos of a sample. Raises ValueError when they are not what was indexed."""
        files = [self.read(location, int(index.record_offset[row]), int(index.record_bytes[row]))]
        first, last = int(index.first_image[row]), int(index.first_image[row + 1])
        for picture in range(first, last):
            files.append(self.read(location, int(index.image_offset[picture]), int(index.image_bytes[picture])))
        digest = xxhash.xxh3_64()
        for file in files:
            digest.update(file)
        if digest.intdigest() != int(index.checksum[row]):
            raise ValueError("the bytes are not those that were indexed")
        kind = RECORD_KINDS[int(index.record_kind[row])]
        visuals = as_visuals(files[1:], index.image_frame[first:last].tolist())
        return parse_record(files[0], kind=kind, num_images=len(visuals)), visuals

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        self.close()


def read_samples(location: str, *, refused: Callable[[str, str], None] | None = None) -> Iterator[RawSample]:
    """The samples of a shard in the order of the tar, without an index.

    Raises ValueError when the tar is damaged. A sample without a readable record, or with a member twice, is one too,
    naming the sample, unless `refused` is there to hear its key and the reason.
    """
    size_bytes = version_of(location).size_bytes
    with contextlib.closing(open_for_reading(location)) as file:
        for key, extensions in group_members(scan_members(file, location, size_bytes)).items():
            try:
                sample = _sample_of(key, extensions, file)
            except ValueError as error:
                if refused is None:
                    raise ValueError(f"{location}: sample {key}: {error}") from error
                refused(key, reason_of(error))
            else:
                yield sample


def _sample_of(key: str, extensions: dict[str, list[Member]], file: SeekableFile) -> RawSample:
    """The sample with the first of its records that can be read. Raises ValueError with the last one's reason."""
    if problem := members_problem(extensions):
        raise ValueError(problem)
    members = picture_members(extensions)
    images = as_visuals([_read_member(file, member) for member in members], frame_numbers(members))
    found: list[ValueError] = []
    for kind, member in record_members(extensions):
        try:
            record = parse_record(_read_member(file, member), kind=kind, num_images=len(images))
        except ValueError as error:
            found.append(error)
        else:
            return RawSample(key, record, tuple(images))
    raise found[-1]


def _read_member(file: SeekableFile, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
