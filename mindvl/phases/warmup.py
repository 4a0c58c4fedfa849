"""Phase 1: the projector learns to speak to a language model that does not change."""

from __future__ import annotations

from mindvl.phases.base import Phase


class WarmUp(Phase):
    """Trains the projector alone (the paper's first phase); tower and language model stay frozen."""

    trains = ("projector",)
