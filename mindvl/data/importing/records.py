"""Records of a JSON or JSON-lines file, with the places of those that cannot be read.

A list in a `.json` file is one text: where it is broken nothing after it can be trusted, so that is one error with
file, line and column. JSON lines stand alone: a broken line is rejected by its number and the next one is read.
Files that are called `.json` and hold lines are common; the first character decides.
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindvl.data.importing.outcome import Rejected

_SNIFFED_BYTES = 1 << 22


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """Yields (number of the line or list entry from 1 as 8 digits, record), or Rejected for what is no record.

    A `.jsonl` file is read line by line, a list is loaded whole. UTF-8, with or without a byte order mark.
    Raises ValueError for a file that is missing, not UTF-8, or not JSON.
    """
    if _holds_lines(path):
        yield from _read_lines(path)
        return
    for number, record in enumerate(_load_list(path), 1):
        if isinstance(record, dict):
            yield f"{number:08d}", record
        else:
            yield Rejected(f"entry {number}", "the record is not an object")


def first_records(path: Path, limit: int = 20) -> list[dict[str, Any]]:
    """Up to `limit` records from the head of the file (its first 4 MiB), to see what they look like."""
    if _holds_lines(path):
        entries = itertools.islice(_read_lines(path), 10 * limit)
        return [entry[1] for entry in entries if not isinstance(entry, Rejected)][:limit]
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES).decode("utf-8-sig", errors="ignore").lstrip()
    decoder, position = json.JSONDecoder(), 1
    found: list[Any] = []
    while len(found) < limit:
        position += len(head[position:]) - len(head[position:].lstrip(" \t\r\n,"))
        try:
            record, position = decoder.raw_decode(head, position)
        except (ValueError, RecursionError):
            break  # the end of the list or of the head; a broken list is for the reader to tell
        found.append(record)
    return [record for record in found if isinstance(record, dict)]


def _holds_lines(path: Path) -> bool:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16 text; save it as UTF-8")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text.startswith(b"{"):
        return False
    try:  # an object on a line of its own; what is laid out over lines does not parse up to the first line's end
        return isinstance(json.loads(text.split(b"\n", 1)[0]), dict)
    except ValueError:
        return len(head) == 1 << 16 and b"\n" not in text


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield Rejected(f"line {number}", "the line is not UTF-8")
            except (ValueError, RecursionError):
                yield Rejected(f"line {number}", "the line is not JSON")
            else:
                if isinstance(record, dict):
                    yield f"{number:08d}", record
                else:
                    yield Rejected(f"line {number}", "the record is not an object")


def _load_list(path: Path) -> list[Any]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: byte {error.start} is 0x{data[error.start]:02x}, not UTF-8") from error
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__}, not a list of records")
    return records
