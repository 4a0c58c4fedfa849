"""Files of answers: one per benchmark and rank, a line for each question, written as soon as it is judged.

    answers/docvqa.rank-00000.jsonl    {"settings": {"model": "93f0...", "max_pixels": 1003520, ...}}
                                       {"id": "49153", "raw": "0.28", "score": 1.0, ...}
                                       {"id": "49155", "raw": "itc li          <- killed here

A run that was killed leaves a line that does not end; it is cut off, and its question asked again. Whoever goes on,
with whatever number of ranks, reads all files of the benchmark and writes to those of its own ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindvl.phases.benchmarks_identity import differences

_BREAKS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Characters at which Python's `splitlines` would cut, beside those that JSON escapes."""


def as_json(line: Mapping[str, Any]) -> str:
    """One line of readable JSON, in whatever way a reader finds the ends of lines."""
    return json.dumps(line, ensure_ascii=False).translate(_BREAKS)


class OtherSettingsError(ValueError):
    """A file's answers are not to be mixed with those of this run."""


def read_answers(folder: Path, label: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Lines of all ranks by their question's id.

    Raises:
        OtherSettingsError: for answers that were given by other weights or under other settings.
        ValueError: for a line that is no JSON, and an id that comes twice.
    """
    lines: dict[str, dict[str, Any]] = {}
    for file in answer_files(folder, label):
        whole = file.read_bytes().split(b"\n")[:-1]  # what follows the last line break was never finished
        for number, text in enumerate(whole, start=1):
            line = _parsed(file, number, text)
            if number == 1:
                _check(file, line, settings)
            elif line["id"] in lines:
                raise ValueError(f"{file}, line {number}: question {line['id']} has an answer in this folder already")
            else:
                lines[line["id"]] = line
    return lines


def answer_files(folder: Path, label: str) -> list[Path]:
    """The files of a benchmark, of whatever ranks have written."""
    return sorted(folder.glob(f"{label}.rank-*.jsonl"))


def _parsed(file: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}, line {number} is no JSON: {error}") from error
    wanted = "settings" if number == 1 else "id"
    if not isinstance(line, dict) or wanted not in line:
        raise ValueError(f"{file}, line {number} has no {wanted!r}; it was not written by this benchmark run")
    return line


def _check(file: Path, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    changed = differences(header["settings"], settings)
    if changed:
        raise OtherSettingsError(
            f"{file} holds answers given under other settings ({'; '.join(changed)}): "
            "name another folder by `out`, or remove the file"
        )


class AnswerWriter:
    """Appends lines to a rank's file; each is on its way to the disk when `write` returns."""

    def __init__(self, folder: Path, label: str, rank: int, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{label}.rank-{rank:05d}.jsonl"
        self._file = path.open("ab+")
        self._file.seek(0)
        finished_bytes = self._file.read().rfind(b"\n") + 1
        self._file.truncate(finished_bytes)
        if not finished_bytes:
            self.write({"settings": dict(settings)})

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(f"{as_json(line)}\n".encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()
