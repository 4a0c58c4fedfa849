"""The way to disk: torch.distributed.checkpoint's writer, which hashes what it writes and ends with a rename.

Every rank writes its slices into one file of the staging directory and hands the file's checksum to rank 0 with its
results. Rank 0 comes to `finish` only when all have: it adds `.metadata`, `meta.pt` and the manifest, and publishes the
directory. That is the same in the foreground and in a background thread, so no later step can forget it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem

from mindvl.parallel.checkpoint.folder import publish, staging_of
from mindvl.parallel.checkpoint.manifest import MANIFEST, FileFacts, Manifest


class CheckpointWriter(FileSystemWriter):
    """Writes one checkpoint, once.

    Args:
        target: its name; rank 0 has made the directory that it is staged in.
        manifest: what will be known of it; rank 0 fills in the files.
        beside: contents of small files by name, of rank 0.
    """

    def __init__(self, target: Path, manifest: Manifest, beside: Mapping[str, bytes]):
        super().__init__(staging_of(target), sync_files=True)
        self.fs = self._disk = _HashingDisk()
        self._target, self._manifest, self._beside = target, manifest, beside

    def write_data(self, plan: Any, planner: Any) -> Any:
        future = super().write_data(plan, planner)
        future.value().append(self._disk.files)
        return future

    def finish(self, metadata: Any, results: list[list[Any]]) -> None:
        files = {name: facts for rank in results for name, facts in rank.pop().items()}
        super().finish(metadata, results)
        for name, content in self._beside.items():
            self._write(name, content)
        own = {name.removesuffix(".tmp"): facts for name, facts in self._disk.files.items()}  # .metadata.tmp
        self._write(MANIFEST, replace(self._manifest, files={**files, **own}).text().encode())
        publish(self._target)

    def _write(self, name: str, content: bytes) -> None:
        with self._disk.create_stream(staging_of(self._target) / name, "wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())


class _HashingDisk(FileSystem):
    """A file system that remembers bytes and checksum of each file that it has written."""

    def __init__(self) -> None:
        self.files: dict[str, FileFacts] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as file:
            stream = _HashedStream(file)
            yield stream
            self.files[Path(path).name] = FileFacts(stream.num_bytes, stream.digest.hexdigest())


class _HashedStream:
    """A file that is written from its beginning to its end."""

    def __init__(self, file: Any):
        self._file, self.digest, self.num_bytes = file, xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.num_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def fileno(self) -> int:
        self._file.flush()  # who asks for it is about to sync the file
        return self._file.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
