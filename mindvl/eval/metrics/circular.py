"""Circular accuracy: MMBench's measure (arXiv 2307.06281): the same question with its options in every rotation.

    index        options              answer
         7       A. red  B. blue      B
    1000007      A. blue B. red       A        index + k * 1,000,000 for rotation k

A question of N options is asked N times and counts only when all N answers are right. Neither harness notices when
rotations are missing: one row alone, right, is a full hit there. Here it is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from mindvl.eval.metrics.choice import extract_choice, lettered
from mindvl.eval.metrics.compat import LMMS_EVAL, check_compat

ROTATION_STEP = 1_000_000

_VERDICT_NAMES = ("correct", "hit", "score")


@dataclass(frozen=True)
class CircularRecord:
    """One judged rotation: its row's index, how many options the question has, and whether the answer was right."""

    index: int
    num_options: int
    correct: bool


def circular_accuracy(records: Iterable[CircularRecord | Mapping[str, Any]], *, compat: str = LMMS_EVAL) -> float:
    """Share of the questions that were answered rightly in every rotation, 0 to 1. Raises what `circular_hits` does."""
    hits = circular_hits(records, compat=compat)
    return sum(hits.values()) / len(hits)


def circular_hits(records: Iterable[CircularRecord | Mapping[str, Any]], *, compat: str = LMMS_EVAL) -> dict[int, bool]:
    """For each question, by the index of its first row, whether all rotations are right.

    Args:
        records: `CircularRecord`s, or mappings with `index`; either `prediction` and `answer` (a letter) or the verdict
            as `correct`, `hit` or `score` (0 or 1); and the options as `options` (texts by letter or in order), as
            columns `A`, `B`, ..., or only their number as `num_options`. A prediction of None is wrong.
        compat: how the letter is read, see `extract_choice`.

    Raises:
        ValueError: when rotations are missing or come twice, the rows of a question disagree on the number of options,
            or there are no records.
    """
    check_compat(compat)
    groups: dict[int, list[CircularRecord]] = defaultdict(list)
    for given in records:
        record = read_circular_record(given, compat)
        groups[record.index % ROTATION_STEP].append(record)
    if not groups:
        raise ValueError("there are 0 records to score")
    return {question: _all_right(question, rows) for question, rows in sorted(groups.items())}


def is_missing(text: Any) -> bool:
    """Whether an option is none: not there, empty, NaN, or NaN that some tool has written as the text "nan"."""
    return text is None or text != text or str(text) in ("", "nan")


def _all_right(question: int, rows: list[CircularRecord]) -> bool:
    sizes = sorted({row.num_options for row in rows})
    if len(sizes) > 1:
        raise ValueError(f"question {question}: one rotation has {sizes[0]} options, another has {sizes[-1]}")
    found = sorted(row.index // ROTATION_STEP for row in rows)
    if found != list(range(sizes[0])):
        raise ValueError(
            f"question {question} has {sizes[0]} options and so rotations 0 to {sizes[0] - 1}; "
            f"{len(found)} are there: {', '.join(map(str, found))}"
        )
    return all(row.correct for row in rows)


def read_circular_record(record: CircularRecord | Mapping[str, Any], compat: str) -> CircularRecord:
    """A record in any of the forms that `circular_hits` takes. Raises ValueError for what it cannot read."""
    if isinstance(record, CircularRecord):
        return record
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping with an index; {record!r} is of type {type(record).__name__}")
    if "index" not in record:
        raise ValueError(f"a record needs an index; this one has: {', '.join(map(str, record))}")
    index = _whole("index", record["index"])
    stored = _stored_options(record, index)
    there = {letter: text for letter, text in stored.items() if not is_missing(text)}
    num_options = _whole("num_options", record.get("num_options", len(there)))
    if num_options < 1:
        raise ValueError(f"row {index} has 0 options")
    if "prediction" in record and "answer" in record:
        # Options that are missing but stored as the text "nan" are options to lmms-eval's matching.
        shown = stored if compat == LMMS_EVAL else there
        letter = extract_choice(record["prediction"], shown, compat=compat)
        return CircularRecord(index, num_options, letter is not None and letter == record["answer"])
    verdict = next((record[name] for name in _VERDICT_NAMES if name in record), None)
    if verdict not in (0, 1):
        raise ValueError(
            f"row {index}: a record needs prediction and answer, or correct as 0 or 1; "
            f"this one has: {', '.join(map(str, record))}"
        )
    return CircularRecord(index, num_options, bool(verdict))


def _stored_options(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Options by letter as a table keeps them, a missing one perhaps as the text "nan"."""
    options = record.get("options")
    if options is None:
        options = {letter: record[letter] for letter in ascii_uppercase if letter in record}
    try:
        stored = lettered(options)
    except ValueError as error:
        raise ValueError(f"row {index}: {error}") from error
    return {letter: text for letter, text in stored.items() if text is not None and text == text and text != ""}


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, which is no whole number") from error
    if isinstance(value, float) and number != value:
        raise ValueError(f"{name} is {value!r}, which is no whole number")
    return number
