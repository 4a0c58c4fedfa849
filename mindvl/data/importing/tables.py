"""Rows of a local Hugging Face dataset: parquet files, or what `save_to_disk` writes, a few rows in memory at a time.

A file of a picture dataset has some 500 MB in a few row groups; it is read through a buffer, 16 rows a step, and only
the columns asked for. Folders hold their splits side by side (`train-00000-of-00004.parquet`,
`validation-...`); they are never mixed without a word, or the validation set would be learnt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_BATCH_ROWS = 16
_BUFFER_BYTES = 1 << 20
_NUMBERED = re.compile(r"(?P<split>.*?)[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?")


def table_files(path: Path, *, split: str | None = None) -> list[Path]:
    """Parquet or arrow files of a dataset folder in the order of their names, or the one file that `path` is.

    `split`, one or several separated by commas, is a file's name before the numbers, or its folder's where the name is
    only numbers, "data" or "part". Raises ValueError when there are no files, none of the split, or several splits and
    none is asked for.
    """
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.parquet")) or [f for f in sorted(path.rglob("*.arrow")) if f.name.startswith("data-")]
    if not files:
        raise ValueError(f"{path} holds no .parquet files and nothing that save_to_disk has written")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, path), []).append(file)
    known = ", ".join(sorted(splits))
    if split is None:
        if len(splits) > 1:
            raise ValueError(f"{path} holds {len(splits)} splits: {known}; choose one with --split")
        return files
    asked = split.split(",")
    if unknown := [name for name in asked if name not in splits]:
        raise ValueError(f"{path} has no split {unknown[0]!r}; there are: {known}")
    return [file for name in asked for file in splits[name]]


def table_columns(file: Path) -> list[str]:
    """Names of a file's columns."""
    if file.suffix == ".arrow":
        with _arrow().memory_map(str(file)) as source:
            return list(_stream(source, file).schema.names)
    with _parquet(file) as table:
        return list(table.schema_arrow.names)


def picture_columns(file: Path) -> list[str]:
    """Columns of pictures, or of lists of them, by their types: Hugging Face's own mark, or {"bytes", "path"}."""
    if file.suffix == ".arrow":
        with _arrow().memory_map(str(file)) as source:
            schema = _stream(source, file).schema
    else:
        with _parquet(file) as table:
            schema = table.schema_arrow
    marks = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    marked = marks.get("info", {}).get("features") or {}
    return [field.name for field in schema if _is_picture(field.type, marked.get(field.name))]


def _is_picture(kind: Any, mark: Any) -> bool:
    """`mark` is what a data set says of its column: {"_type": "Image"}, a list of that, {"_type": "Value", ...}."""
    while isinstance(mark, list) and mark:
        mark = mark[0]
    while isinstance(mark, dict) and "feature" in mark:
        mark = mark["feature"]
    if isinstance(mark, dict) and "_type" in mark:
        return mark["_type"] == "Image"
    types = _arrow().types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return types.is_struct(kind) and {kind.field(place).name for place in range(kind.num_fields)} == {"bytes", "path"}


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows as plain Python values. Raises ValueError for a file that is damaged or lacks one of the columns."""
    arrow = _arrow()
    present = table_columns(file)
    if missing := [name for name in columns if name not in present]:
        raise ValueError(f"{file} has no column {missing[0]!r}; there are: {', '.join(present)}")
    try:
        if file.suffix == ".arrow":
            with arrow.memory_map(str(file)) as source:
                for batch in _stream(source, file):
                    for start in range(0, batch.num_rows, _BATCH_ROWS):
                        yield from batch.slice(start, _BATCH_ROWS).select(list(columns)).to_pylist()
        else:
            with _parquet(file) as table:
                for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns), use_threads=False):
                    yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def as_json(value: Any) -> Any:
    """A column that holds JSON as text, parsed; everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _split_of(file: Path, root: Path) -> str:
    found = _NUMBERED.fullmatch(file.stem)
    name = found["split"] if found else file.stem
    return name if name not in ("", "data", "part") or file.parent == root else file.parent.name


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError("Hugging Face datasets are read with pyarrow: pip install 'mindvl[hf]'") from error
    return pyarrow


def _parquet(file: Path) -> Any:
    arrow = _arrow()
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)  # else a row group is in memory whole
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable parquet file: {error}") from error


def _stream(source: Any, file: Path) -> Any:
    arrow = _arrow()
    try:
        return arrow.ipc.open_stream(source)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable arrow stream: {error}") from error
