"""A folder that appears whole or not at all: written under a temporary name beside, flushed to disk, renamed.

While `mean` is made, `.mean.averaging-<host>-<process>` lies beside it. One that a killed process has left is removed
by the next average into the same place; other hosts and living processes keep theirs.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKS = ("config.json", "averaging.json")
"""A folder with one of these is a saved model, which may be replaced when that is asked for."""


def check_target(out: Path, *, overwrite: bool, sources: tuple[Path, ...] = ()) -> None:
    """ValueError when `out` exists and may not be replaced: no saved model, `overwrite` is off, or it is a source."""
    if out.is_symlink() or (out.exists() and not any((out / mark).is_file() for mark in MARKS)):
        raise ValueError(f"{out} exists and is no saved model; it would be lost, choose another folder")
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists; choose another folder, or replace it on purpose (--overwrite)")
    inside = [file for file in sources if out.resolve() in file.resolve().parents]
    if inside:
        raise ValueError(f"{out} would overwrite {inside[0]}, which goes into the average; choose another folder")


@contextmanager
def new_folder(out: Path, *, needs_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end; nothing stays of it after an error.

    ValueError, with the path and the bytes, when the disk has no room or does not take what is written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _tidy(out)
        free = shutil.disk_usage(out.parent).free
        if needs_bytes > free:
            raise ValueError(f"{out} needs {needs_bytes} bytes, {out.parent} has {free} free")
        temporary = _beside(out, "averaging")
        temporary.mkdir()
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}") from error
    try:
        yield temporary
        flush_tree(temporary)
        _swap(temporary, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written, it needs {needs_bytes} bytes: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush_tree(folder: Path) -> None:
    """Wait until the files and names under a folder are on disk."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(temporary: Path, out: Path) -> None:
    before = _beside(out, "replaced")
    if out.exists():
        out.rename(before)
    try:
        temporary.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise
    _flush(out.parent)
    shutil.rmtree(before, ignore_errors=True)


def _beside(out: Path, word: str) -> Path:
    return out.with_name(f".{out.name}.{word}-{socket.gethostname()}-{os.getpid()}")


def _tidy(out: Path) -> None:
    """Remove what killed processes of this host have left, and put back a folder that one was about to replace."""
    for word in ("replaced", "averaging"):
        start = f".{out.name}.{word}-{socket.gethostname()}-"
        for path in out.parent.iterdir():
            process = path.name.removeprefix(start)
            if not path.name.startswith(start) or not process.isdigit() or _is_alive(int(process)):
                continue
            if word == "replaced" and not out.exists():
                path.rename(out)
            else:
                shutil.rmtree(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
