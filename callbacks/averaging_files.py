"""The files of a mean: laid out first, filled by a few threads in any order, flushed to disk while they are filled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from .averaging_format import FileLayout, TensorFacts, plan_layout
from .averaging_mean import Shares, TensorSums, mean_of_tensor
from .averaging_reading import Checkpoint

WORKERS = min(4, os.cpu_count() or 1)


def plan_files(
    facts: Mapping[str, TensorFacts], tied: Mapping[str, str], max_file_bytes: int
) -> dict[str, tuple[bytes, FileLayout]]:
    """Name, first bytes and layout of each file: one, or as many as the size demands, filled in the tensors' order."""
    groups: list[dict[str, TensorFacts]] = [{}]
    held = 0
    for key, its in facts.items():
        if groups[-1] and held + its.num_bytes > max_file_bytes:
            groups.append({})
            held = 0
        groups[-1][key] = its
        held += its.num_bytes
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    return {
        name if len(groups) > 1 else "model.safetensors": plan_layout(
            group, {"format": "pt", **{alias: owner for alias, owner in tied.items() if owner in group}}
        )
        for name, group in zip(names, groups, strict=True)
    }


class FlushBehind:
    """Flushes files from a thread of its own: the disk writes what is there while more is made.

    Leaving it waits until all is on disk, and raises the OSError that the disk may have had.
    """

    def __enter__(self) -> FlushBehind:
        self._thread = ThreadPoolExecutor(1)
        self._flushes: list[Future[None]] = []
        self._handles: list[int] = []
        return self

    def open(self, path: Path) -> int:
        """A new file to write to; it stays open until all is flushed."""
        self._handles.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return self._handles[-1]

    def wrote(self, handle: int) -> None:
        """Flush this file soon, unless a flush is under way."""
        if not self._flushes or self._flushes[-1].done():
            self._flushes.append(self._thread.submit(os.fsync, handle))

    def flush_all(self) -> None:
        """Begin to flush every file."""
        self._flushes += [self._thread.submit(os.fsync, handle) for handle in self._handles]

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for future in self._flushes:  # a failure is told once only, to whichever flush comes next
                    future.result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            for handle in self._handles:
                os.close(handle)


def write_means(
    checkpoints: Sequence[Checkpoint],
    shares: Shares,
    facts: Mapping[str, TensorFacts],
    files: Mapping[str, tuple[bytes, FileLayout]],
    folder: Path,
    disk: FlushBehind,
    newest_integers: bool,
) -> dict[str, TensorSums]:
    """Fill the planned files with the checkpoints' mean; when this returns, the disk is still at work."""
    places = {key: (name, start) for name, (_, layout) in files.items() for key, start in layout.starts_bytes.items()}
    handles = {}
    for name, (header, layout) in files.items():
        handles[name] = disk.open(folder / name)
        os.ftruncate(handles[name], layout.size_bytes)
        write_at(handles[name], 0, memoryview(header))

    def write(key: str) -> TensorSums:
        name, first = places[key]

        def put(at: int, view: memoryview) -> None:
            write_at(handles[name], first + at, view)

        sums = mean_of_tensor(checkpoints, key, shares, facts[key].dtype, put, newest_integers=newest_integers)
        disk.wrote(handles[name])
        return sums

    # The largest first, so that no thread is left alone with it at the end.
    order = sorted(facts, key=lambda key: -facts[key].num_bytes)
    with worker_threads() as pool:
        sums = dict(zip(order, pool.map(write, order), strict=True))
    disk.flush_all()
    return {key: sums[key] for key in facts}


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """A few threads whose tensor operations stay in their own thread; at an error what has not begun is dropped."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the setting of one thread is also that of threads still to come


def write_at(handle: int, start: int, view: memoryview) -> None:
    """Write all of `view` to a place in an open file."""
    done = 0
    while done < len(view):
        done += os.pwrite(handle, view[done:], start + done)


def write_index(path: Path, files: Mapping[str, tuple[bytes, FileLayout]]) -> None:
    """The index that names the file of each tensor."""
    weight_map = {key: name for name, (_, layout) in files.items() for key in sorted(layout.tensors)}
    total = sum(facts.num_bytes for _, layout in files.values() for facts in layout.tensors.values())
    path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")
