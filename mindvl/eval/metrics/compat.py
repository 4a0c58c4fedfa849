"""Which harness's rule holds, where the two differ."""

from __future__ import annotations

from collections.abc import Sequence

LMMS_EVAL = "lmms-eval"
VLMEVALKIT = "vlmevalkit"
COMPATS = (LMMS_EVAL, VLMEVALKIT)


def check_compat(compat: str) -> str:
    """The name itself. Raises ValueError for a harness that is not known."""
    if compat not in COMPATS:
        raise ValueError(f"unknown compat {compat!r}; known are {', '.join(COMPATS)}")
    return compat


def as_references(references: str | Sequence[str]) -> tuple[str, ...]:
    """One reference or several, as several. Raises ValueError when there is none: nothing can be judged by it."""
    found = (references,) if isinstance(references, str) else tuple(references)
    if not found:
        raise ValueError("there are 0 references to judge by; an answer that nobody knows is not scored")
    return found
