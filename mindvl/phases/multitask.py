"""Phase 2: everything learns, on many tasks at once."""

from __future__ import annotations

from mindvl.phases.base import Phase


class Multitask(Phase):
    """Trains tower, projector and language model together, each at its own rate."""

    trains = ("vision", "projector", "language")
