"""What a tar holds and where, or an error: a damaged archive is never taken for a shorter one.

Tar has no checksum over members, and Python's reader takes a damaged header for the end of the archive. So a shard is
believed only when, after the last member that was read, nothing but the zeros of the end-of-archive mark follows:

    one.json | one.0.png | two.json | 0 0 ... 0        fine
    one.json | one.0.png | (damaged header) ...        the reader stops here; what follows is not zero: refused
    one.json | one.0.png                               ends without the mark: refused
"""

from __future__ import annotations

import re
import tarfile
from typing import BinaryIO, NamedTuple, cast

from mindvl.data.storage import SeekableFile

_BLOCK_BYTES = 512
_READ_BYTES = 1 << 20
_NAME = re.compile(r"^(?P<key>(?:.*/)?[^./][^/.]*)\.(?P<extension>[^/]+)$")


class Member(NamedTuple):
    """A regular file of a tar: `key.extension`, and where its bytes lie."""

    name: str
    offset: int
    size: int

    @property
    def key_and_extension(self) -> tuple[str, str] | None:
        """webdataset's split at the first dot after the last slash, extension in lower case; None without one."""
        match = _NAME.match(self.name)
        return (match["key"], match["extension"].lower()) if match else None


def scan_members(file: SeekableFile, location: str, size_bytes: int) -> list[Member]:
    """Regular members of a tar, in its order; links, folders and devices are passed over.

    Raises ValueError when the archive is empty, damaged or ends early.
    """
    if size_bytes == 0:
        raise ValueError(f"shard {location} is empty: 0 bytes")
    members, end = [], 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, file), mode="r:") as archive:
            for info in archive:
                content_bytes = info.size if info.isreg() else 0
                end = info.offset_data + -(-content_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
                if info.isreg():
                    members.append(Member(info.name, info.offset_data, info.size))
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header; a shard of a million members need not
    except tarfile.TarError as error:
        raise ValueError(f"shard {location} is not a readable tar: {error}") from error
    if not members:
        raise ValueError(f"shard {location} is empty: no sample in {size_bytes} bytes")
    _check_end(file, location, members, end, size_bytes)
    return members


def _check_end(file: SeekableFile, location: str, members: list[Member], end: int, size_bytes: int) -> None:
    """Two blocks of zeros must follow the last member, and nothing else but zeros after them."""
    lost = f"members stop at byte {end} of {size_bytes}"
    if size_bytes - end < 2 * _BLOCK_BYTES:
        raise ValueError(
            f"shard {location} ends early: {lost} without an end-of-archive mark; "
            f"samples after {members[-1].name} are lost"
        )
    file.seek(end)
    while block := file.read(_READ_BYTES):
        if any(block):
            raise ValueError(
                f"shard {location} ends early: {lost}, but more data follows where a header should be; "
                f"samples after {members[-1].name} are lost"
            )
