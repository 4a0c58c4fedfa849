"""Hugging Face's files: a folder of parquet files, splits side by side, pictures as {"bytes": ..., "path": ...}.

    DocVQA/DocVQA/validation-00000-of-00006.parquet      the split is the name before the numbers
    MMMU/Accounting/validation-00000-of-00001.parquet
    MMMU/validation/0000.parquet                         or the folder, where the name is only numbers

A file is read 16 rows at a time, so a folder of many gigabytes needs little memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindvl.eval.readers.rows import Row, check_picture_columns, read_picture, row_error

_BATCH_ROWS = 16
_BUFFER_BYTES = 1 << 20
_NUMBERED = re.compile(r"(?P<split>.*?)[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?")


def read_parquet(
    path: Path, *, split: str | None = None, subfolder: str | None = None, image_columns: Sequence[str] = ("image",)
) -> Iterator[Row]:
    """Rows of the files of a split in the order of their names, or of the one file that `path` is.

    Args:
        split: must be given when there are several.
        subfolder: of the data set within a repository of several; used if it is there.
        image_columns: pictures, one or a list in each; a file has one of the columns, and nulls are left out.

    Raises:
        ValueError: for files, splits or columns that are not there or not readable.
    """
    name = path.stem if path.is_file() else path.resolve().name
    if subfolder is not None and (path / subfolder).is_dir():
        path, name = path / subfolder, f"{name}/{subfolder}"
    for part, file in _files(path, split):
        yield from _rows(file, f"{name} {part}".strip(), image_columns)


def _files(path: Path, split: str | None) -> list[tuple[str, Path]]:
    """(split, file) in order."""
    if path.is_file():
        return [("", path)]
    found = [(_split_of(file, path), file) for file in sorted(path.rglob("*.parquet"))]
    if not found:
        raise ValueError(f"{path} holds no .parquet file")
    known = sorted({name for name, _ in found})
    if split is None and len(known) > 1:
        raise ValueError(f"{path} holds {len(known)} splits: {', '.join(known)}; choose one")
    if split is not None and known not in ([split], [""]):
        found = [(name, file) for name, file in found if name == split]
        if not found:
            raise ValueError(f"{path} has no split {split!r}; there are: {', '.join(known)}")
    return found


def _split_of(file: Path, root: Path) -> str:
    numbered = _NUMBERED.fullmatch(file.stem)
    name = numbered["split"] if numbered else file.stem
    return name if name not in ("", "data", "part") else "" if file.parent == root else file.parent.name


def _rows(file: Path, part: str, image_columns: Sequence[str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError("parquet files are read with pyarrow: pip install 'mindvl[hf]'") from error
    number = 0
    try:
        with ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
            check_picture_columns(file, table.schema_arrow.names, image_columns)
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    pictures = [_pictures(values.pop(key, None), file, number, key) for key in image_columns]
                    yield Row(values, tuple(one for some in pictures for one in some), file, number, part)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}, after row {number}: {error}") from error


def _pictures(cell: Any, file: Path, number: int, key: str) -> list[bytes]:
    if cell is None:
        return []
    if isinstance(cell, list):
        return [picture for one in cell for picture in _pictures(one, file, number, key)]
    if isinstance(cell, dict):
        if cell.get("bytes") is None and cell.get("path"):
            return [read_picture(cell["path"], [file.parent, file.parent.parent], file, number, key)]
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        raise row_error(file, number, key, f"holds {type(cell).__name__}, not a picture's bytes or path")
    return [cell]
