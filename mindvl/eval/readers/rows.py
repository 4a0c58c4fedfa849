"""A row of a benchmark's file: fields under names, its pictures as files' bytes, and where it stands.

Layouts name the same thing differently ("answer", "answers", "label"), so a field is asked for by all its names. A
field is missing when it is not there, null, NaN or empty; the text "None" is a text (pandas would drop it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mindvl.eval.metrics.relaxed import written_list


@dataclass(frozen=True, eq=False)
class Row:
    """One row.

    `number` counts from 1 within the file; `part` says of which part of which data the row is ("MMBench_DEV_EN_V11").
    """

    values: Mapping[str, Any]
    images: tuple[bytes, ...]
    file: Path
    number: int
    part: str

    def get(self, *names: str) -> Any:
        """The first of these fields that is not missing, or None."""
        return next((self.values[name] for name in names if not _missing(self.values.get(name))), None)

    def maybe_text(self, *names: str) -> str | None:
        """The first of these fields that is not missing as text, or None."""
        value = self.get(*names)
        return None if value is None else str(value)

    def text(self, *names: str) -> str:
        """The first of these fields that is not missing, as text. Raises ValueError when all are missing."""
        value = self.maybe_text(*names)
        if value is None:
            raise self.error(names[0], f"is missing; the row has: {', '.join(map(str, self.values))}")
        return value

    def texts(self, *names: str) -> tuple[str, ...]:
        """The first of these fields as texts: a list, a list written as text ("['a', 'b']"), or one; () if missing."""
        value = self.get(*names)
        if value is None:
            return ()
        if isinstance(value, str):
            value = written_list(value)
        return tuple(str(one) for one in value) if isinstance(value, list | tuple) else (str(value),)

    def options(self) -> dict[str, str]:
        """Columns A to Z that hold something, as options by letter."""
        return {letter: str(self.values[letter]) for letter in ascii_uppercase if self.get(letter) is not None}

    def error(self, key: str, what: str) -> ValueError:
        """The error to raise about one field of this row."""
        return row_error(self.file, self.number, key, what)


def row_error(file: Path, number: int, key: str, what: str) -> ValueError:
    """An error that says where it is: file, row and key."""
    return ValueError(f"{file}, row {number}, {key}: {what}")


def check_picture_columns(file: Path, columns: Iterable[str], wanted: Sequence[str]) -> None:
    """Raises ValueError for a table without a column of pictures, whose questions would all be asked blind."""
    there = list(columns)
    if not set(wanted) & set(there):
        raise ValueError(f"{file} has no column of pictures ({' or '.join(wanted)}); there are: {', '.join(there)}")


def read_picture(name: str, folders: list[Path], file: Path, number: int, key: str) -> bytes:
    """Bytes of a picture file that lies in one of the folders. Raises ValueError that names row and places."""
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise row_error(file, number, key, f"no picture {name} in {', '.join(str(folder) for folder in folders)}")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and value == "")
