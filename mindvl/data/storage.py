"""Where shards lie: local paths, or URLs that fsspec knows (s3://, gs://, hf://, https://, ...), read by byte range.

A location is a plain string. What is asked of a store is little: list, size and version, a range of bytes, and writing
one small file whole. `pipe:` and whatever else would run a command is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class FileVersion:
    """Size of a file in bytes, and a mark that changes when the file is written anew."""

    size_bytes: int
    mark: str
    """Nanoseconds of the last change for a local file, the store's ETag or change time elsewhere."""


@runtime_checkable
class SeekableFile(Protocol):
    """What is asked of an open file, be it on disk, a memory map or behind a URL."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> Any: ...

    def tell(self) -> int: ...

    def close(self) -> None: ...


def is_url(location: str) -> bool:
    """Whether a location is for fsspec; raises ValueError for `pipe:`, which webdataset would hand to a shell."""
    if location.startswith("pipe:"):
        raise ValueError(f"{location!r} would run a command; give a path or a URL that can be read by range")
    return bool(_URL.match(location))


def find_shards(pattern: str | os.PathLike[str]) -> list[str]:
    """Shards named by a folder, a file, a glob or a URL of these, sorted. Raises ValueError when there are none."""
    text = os.fspath(pattern)
    found = _find_remote(text) if is_url(text) else _find_local(Path(text))
    if not found:
        raise ValueError(f"no shards at {text}: 0 files match")
    return found


def _find_local(pattern: Path) -> list[str]:
    if pattern.is_dir():
        return sorted(str(path) for path in pattern.glob("*.tar"))
    if pattern.is_file():
        return [str(pattern)]
    if not pattern.parent.is_dir():
        raise ValueError(f"no shards at {pattern}: the folder {pattern.parent} does not exist")
    return sorted(str(path) for path in pattern.parent.glob(pattern.name))


def _find_remote(url: str) -> list[str]:
    store, path = _store(url)
    if _GLOB.search(path):
        found = store.glob(path)
    elif store.isdir(path):
        found = [name for name in store.ls(path, detail=False) if name.endswith(".tar")]
    else:
        found = [path] if store.exists(path) else []
    return sorted(str(store.unstrip_protocol(name)) for name in found)


def version_of(location: str) -> FileVersion:
    """Size and version mark of a file. Raises FileNotFoundError, naming it, when it is not there."""
    if not is_url(location):
        stat = Path(location).stat()
        return FileVersion(stat.st_size, str(stat.st_mtime_ns))
    store, path = _store(location)
    info = store.info(path)
    mark = next((str(info[name]) for name in ("ETag", "etag", "mtime", "LastModified", "created") if name in info), "")
    return FileVersion(int(info["size"]), mark)


def open_for_reading(location: str) -> SeekableFile:
    """A seekable file; of a URL, read ahead in blocks."""
    if not is_url(location):
        return Path(location).open("rb")
    store, path = _store(location)
    return store.open(path, "rb")


def read_range(location: str, offset: int, size: int) -> bytes:
    """`size` bytes of a URL from `offset` on, in one request."""
    store, path = _store(location)
    return store.cat_file(path, start=offset, end=offset + size)


def read_whole(location: str) -> bytes | None:
    """All bytes of a small file, or None when it is not there."""
    if not is_url(location):
        place = Path(location)
        return place.read_bytes() if place.is_file() else None
    store, path = _store(location)
    try:
        return store.cat_file(path)
    except FileNotFoundError:
        return None


def write_whole(location: str, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all. Raises ValueError where the store refuses."""
    try:
        if is_url(location):
            store, path = _store(location)
            store.pipe_file(path, data)
            return
        place = Path(location)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:
        raise ValueError(f"cannot write {len(data)} bytes to {location}: {error}") from error


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path inside it."""
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot open {url}: {error}") from error
    return store, path
