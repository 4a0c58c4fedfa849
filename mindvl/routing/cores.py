"""Independent pieces of work on all cores: the compiled loops below this room release the interpreter's lock.

Plain threads rather than numba's parallel loops: they compile once, nest, and leave a process that forks its data
workers afterwards in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from mindvl.cores import num_cores

Piece = TypeVar("Piece")


def on_all_cores(work: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Runs `work` on every piece; the first error is raised after all pieces are done."""
    pieces = list(pieces)
    if len(pieces) == 1 or num_cores() == 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(num_cores()) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()


def split_samples(num_samples: int, num_jobs: int) -> list[tuple[int, int]]:
    """Ranges [first, stop) of samples, so that `num_jobs` equal jobs times the ranges keep every core busy."""
    parts = max(1, min(num_samples, -(-num_cores() // num_jobs)))
    bounds = [num_samples * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))
