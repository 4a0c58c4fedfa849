"""Texts as the paper feeds them: the documents of a domain laid end to end, an end token after each, cut into samples.

Documents of 5, 3 and 6 tokens, e the end token, samples of 8:

    a a a a a e b b | b e c c c c c c |  e: the rest is too short for a sample and is left out

With `documents=True` each document is a sample of its own instead, cut at its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

SUFFIXES = (".txt", ".md", ".jsonl")


def text_files(pattern: str | Path) -> list[Path]:
    """Text files that a path, a folder or a glob names, sorted. Raises ValueError when there is none."""
    path = Path(pattern)
    if path.is_dir():
        found = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
    elif path.is_file():
        found = [path]
    else:
        root = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(root.glob(str(path.relative_to(root) if path.is_absolute() else path)))
    if not found:
        raise ValueError(f"{pattern} names no text file ({', '.join(SUFFIXES)})")
    for file in found:
        if file.suffix not in SUFFIXES:
            raise ValueError(f"{file}: texts are read from {', '.join(SUFFIXES)}")
    return found


def domain_of(file: Path) -> str:
    """The name of a file without its number: "code-00003.jsonl" -> "code"."""
    return re.sub(r"[-_.]?\d+$", "", file.stem) or file.stem


def read_documents(files: Iterable[Path]) -> Iterator[str]:
    """The documents of text files: a whole .txt or .md, or "text" of each line of a .jsonl; empty ones are left out.

    Raises ValueError, with file and line, for a line that is no JSON record with a "text".
    """
    for file in files:
        try:
            if file.suffix != ".jsonl":
                texts = [file.read_text(encoding="utf-8")]
            else:
                with file.open(encoding="utf-8") as lines:
                    texts = [_text(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no UTF-8 text: {error}") from error
        yield from (text for text in texts if text.strip())


def _text(file: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{file}: line {number} is no JSON record with a "text": {line.strip()[:60]!r}') from error
    if not isinstance(text, str):
        raise ValueError(f'{file}: "text" of line {number} is {type(text).__name__}, not a string')
    return text


def cut_samples(
    documents: Iterable[str],
    encode: Callable[[str], Sequence[int]],
    *,
    length: int,
    max_samples: int,
    end_token_id: int | None,
    keep_documents: bool = False,
) -> list[list[int]]:
    """Token ids of at most `max_samples` samples of `length` tokens; of at most `length` with `keep_documents`.

    No more documents are read than needed. Empty when they do not fill one sample.
    """
    if length < 1:
        raise ValueError(f"the length of a sample is {length} tokens; it must be at least 1")
    samples: list[list[int]] = []
    waiting: list[int] = []
    for text in documents:
        ids = list(encode(text))
        if keep_documents:
            samples += [ids[:length]] if ids else []
        else:
            waiting += ids + ([] if end_token_id is None else [end_token_id])
            whole = len(waiting) // length
            samples += [waiting[place * length : (place + 1) * length] for place in range(whole)]
            waiting = waiting[whole * length :]
        if len(samples) >= max_samples:
            return samples[:max_samples]
    return samples
