"""Where shards lie: local paths, or URLs that fsspec knows (s3://, gs://, hf://, https://, ...), read by byte range.

A location is a plain string. What is asked of a store is little: list, size and version, a range of bytes, and writing
one small file whole. `pipe:` and whatever else would run a command is refused.

Shards are named by a folder, a file, a glob, or braces as webdataset writes them. Nothing is lost without a word: each
pattern in the braces must match, and an index whose tar is gone says that there was one:

    docs                    docs/a-000000.tar    docs/a-000001.tar
    docs/a-00000*.tar       docs/a-000000.tar    (docs/a-000001.tar.index.npz: refused, since a-000001.tar is missing)
    docs/a-{000000..000001}.tar
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_GLOB = re.compile(r"[*?\[]")
_INDEX = ".index.npz"


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


class NoShardsError(ValueError):
    """Nothing is there under the name that was given."""


def find_shards(pattern: str | os.PathLike[str], *, index_folder: str | None = None) -> list[str]:
    """Shards named by a folder, a file, a glob, a pattern with braces or a URL of these, sorted.

    Raises NoShardsError when there are none, also of one pattern in the braces, and ValueError for an index, beside the
    tars or in `index_folder`, whose tar is missing.
    """
    text = os.fspath(pattern)
    found: set[str] = set()
    for one in _unbraced(text):
        names, wanted = _find_remote(one) if is_url(one) else _find_local(Path(one))
        shards = {name for name in names if not name.endswith(_INDEX)}
        indexed = {name.removesuffix(_INDEX): name for name in names if name.endswith(f".tar{_INDEX}")}
        if index_folder is not None and wanted is not None:
            indexed |= _indexed_elsewhere(shards, wanted, index_folder)
        _check_complete(shards, indexed)
        if not shards:
            within = f" of {text}" if one != text else ""
            raise NoShardsError(f"no shards at {one}{within}: 0 files match")
        found |= shards
    return sorted(found)


def index_location(shard: str, folder: str | None = None) -> str:
    """Where a shard's index lies: beside the tar, or in `folder` when the tar's own place cannot be written."""
    if folder is None:
        return f"{shard}{_INDEX}"
    place = hashlib.blake2b(shard.encode(), digest_size=6).hexdigest()
    name = f"{PurePosixPath(shard).name}.{place}{_INDEX}"
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(PurePosixPath(folder) / name)


def _unbraced(pattern: str) -> list[str]:
    """`a-{0..2}.tar` is three names, unless a file of that very name is there."""
    if "{" not in pattern or (not is_url(pattern) and Path(pattern).exists()):
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise ValueError(f"no shards at {pattern}: a brace has no partner") from error


def _find_local(pattern: Path) -> tuple[set[str], str | None]:
    """Tars that a pattern names, with the indexes beside them, and how such tars are called; None for one that is."""
    if pattern.is_file():
        return {str(pattern)}, None
    folder, wanted = (pattern, "*.tar") if pattern.is_dir() else (pattern.parent, pattern.name)
    if not folder.is_dir():
        raise NoShardsError(f"no shards at {pattern}: the folder {folder} does not exist")
    return {str(path) for name in (wanted, f"{wanted}{_INDEX}") for path in folder.glob(name)}, wanted


def _find_remote(url: str) -> tuple[set[str], str | None]:
    """The same behind a URL."""
    store, path = _store(url)
    wanted: str | None = "*.tar"
    if _GLOB.search(path):
        found = [name for pattern in (path, f"{path}{_INDEX}") for name in store.glob(pattern)]
        wanted = PurePosixPath(path).name
    elif store.isdir(path):
        found = [name for name in store.ls(path, detail=False) if name.endswith((".tar", f".tar{_INDEX}"))]
    else:
        found, wanted = [path] if store.exists(path) else [], None
    return {str(store.unstrip_protocol(name)) for name in found}, wanted


def _indexed_elsewhere(shards: set[str], wanted: str, folder: str) -> dict[str, str]:
    """Shards beside these that have an index in `folder`, whose name holds the hash of the shard's location."""
    if is_url(folder):
        store, path = _store(folder)
        names = [PurePosixPath(name).name for name in store.ls(path, detail=False)] if store.exists(path) else []
    else:
        names = [path.name for path in Path(folder).glob(f"*{_INDEX}")]
    found = {}
    for place in {shard.removesuffix(PurePosixPath(shard).name) for shard in shards}:
        for name in names:
            tar = name.removesuffix(_INDEX).rpartition(".")[0]
            index = index_location(place + tar, folder)
            if PurePosixPath(index).name == name and fnmatch.fnmatchcase(tar, wanted):
                found[place + tar] = index
    return found


def _check_complete(shards: set[str], indexed: dict[str, str]) -> None:
    """Raises ValueError for an index without its tar."""
    if lost := sorted(indexed.keys() - shards):
        raise ValueError(
            f"{len(lost)} of {len(indexed)} indexed shards are missing: {lost[0]} is not there, its index "
            f"{indexed[lost[0]]} is; bring the tar back, or delete the index to do without it"
        )


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
