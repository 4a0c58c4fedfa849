"""VLMEvalKit's files: one tab-separated table per benchmark, pictures inside as base64.

    index    question         answer         image
    7        What is it?      ['a cat']      iVBORw0KGgo...                        a picture
    1000007  What is it?      ['a cat']      7                                     the picture of row 7
    8        Which is left?   ['the dog']    ['iVBORw0KGgo...', '/9j/4AAQ...']     several

Without a column `image` the column `image_path` names files, beside the table, under `images/`, or under
`images/<table>/`. Reading is lazy; only pictures that other rows point at stay in memory.
"""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Iterator
from pathlib import Path

from mindvl.eval.metrics.relaxed import written_list
from mindvl.eval.readers.rows import Row, check_picture_columns, read_picture, row_error

MAX_FIELD_CHARS = 2**31 - 1
"""The standard library's limit of 131,072 characters is less than a page of a document; this is all a C long holds."""

IMAGE_COLUMNS = ("image", "image_path")

MAX_POINTER_CHARS = 64
"""A shorter image field may be the index of another row."""


def read_tsv(path: Path) -> Iterator[Row]:
    """Rows of a table; fields are texts. Raises ValueError, naming file, row and key, for what cannot be read."""
    lent = _lent_pictures(path)
    for number, values in _table(path):
        yield Row(values, _images(values, lent, path, number), path, number, path.stem)


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter="\t")
        number = 0
        try:
            header = next(lines, [])
            if "index" not in header:
                raise ValueError(f"{path} has no column 'index'; there are: {', '.join(header)}")
            check_picture_columns(path, header, IMAGE_COLUMNS)
            for number, fields in enumerate(lines, 1):
                if len(fields) != len(header):
                    raise row_error(
                        path, number, header[0], f"the row has {len(fields)} fields, the table {len(header)} columns"
                    )
                yield number, dict(zip(header, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, after row {number}: {error}") from error


def _lent_pictures(path: Path) -> dict[str, str]:
    """Image fields of the rows that other rows point at, by index."""
    indexes, pointed = set(), set()
    for _, values in _table(path):
        indexes.add(values["index"])
        if 0 < len(image := values.get("image", "")) <= MAX_POINTER_CHARS:
            pointed.add(image)
    pointed &= indexes
    if not pointed:
        return {}
    return {values["index"]: values["image"] for _, values in _table(path) if values["index"] in pointed}


def _images(values: dict[str, str], lent: dict[str, str], path: Path, number: int) -> tuple[bytes, ...]:
    if field := values.get("image", ""):
        found = _each(lent.get(field, field))
        return tuple(_decode(text, path, number) for text in found)
    folders = [path.parent, path.parent / "images", path.parent / "images" / path.stem]
    names = _each(values["image_path"]) if values.get("image_path") else []
    return tuple(read_picture(name, folders, path, number, "image_path") for name in names)


def _each(field: str) -> list[str]:
    found = written_list(field)
    return [found] if isinstance(found, str) else found


def _decode(text: str, path: Path, number: int) -> bytes:
    try:
        return base64.b64decode("".join(text.rpartition("base64,")[2].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        shown = text if len(text) <= MAX_POINTER_CHARS else f"{text[:20]}... of {len(text)} characters"
        raise row_error(path, number, "image", f"{shown!r} is neither base64 nor a row's index: {error}") from error
