"""Times of rivals, taken in turns (A B A B ...), so that a machine which slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_times_s(rivals: dict[str, Callable[[], object]], *, rounds: int, warmups: int = 1) -> dict[str, float]:
    """Median wall time of each rival over `rounds` turns; the first `warmups` turns are not counted."""
    times_s = _times_s(rivals, rounds=rounds, warmups=warmups)
    return {name: statistics.median(times) for name, times in times_s.items()}


def best_times_s(rivals: dict[str, Callable[[], object]], *, rounds: int, warmups: int = 1) -> dict[str, float]:
    """Shortest wall time of each rival, for work so long and even that other programs only ever add to it."""
    return {name: min(times) for name, times in _times_s(rivals, rounds=rounds, warmups=warmups).items()}


def _times_s(rivals: dict[str, Callable[[], object]], *, rounds: int, warmups: int) -> dict[str, list[float]]:
    times_s: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(warmups + rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            if number >= warmups:
                times_s[name].append(time.perf_counter() - start)
    return times_s
