"""Callbacks and tools for any Lightning project; nothing here knows MindVL.

Names are loaded when they are first asked for: who only averages files does not wait until Lightning is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors, which do not look into the table
    from .averaging_folder import average_checkpoints as average_checkpoints
    from .averaging_greedy import command_score as command_score
    from .averaging_greedy import greedy_soup as greedy_soup
    from .averaging_states import average_state_dicts as average_state_dicts
    from .checkpoint_averaging import CheckpointAveraging as CheckpointAveraging
    from .packing_statistics import PackFacts as PackFacts
    from .packing_statistics import PackingStatistics as PackingStatistics
    from .resolution_cache import ScoreCache as ScoreCache
    from .resolution_callback import ResolutionSearch as ResolutionSearch
    from .resolution_curve import draw_resolution_curve as draw_resolution_curve
    from .resolution_samples import SearchSample as SearchSample
    from .resolution_samples import budget_grid as budget_grid
    from .resolution_search import BudgetScore as BudgetScore
    from .resolution_search import ResolutionResult as ResolutionResult
    from .resolution_search import search_resolution as search_resolution
    from .routing_consistency import RoutingConsistency as RoutingConsistency
    from .token_throughput import TokenThroughput as TokenThroughput

_HOME = {
    "BudgetScore": "resolution_search",
    "CheckpointAveraging": "checkpoint_averaging",
    "PackFacts": "packing_statistics",
    "PackingStatistics": "packing_statistics",
    "ResolutionResult": "resolution_search",
    "ResolutionSearch": "resolution_callback",
    "RoutingConsistency": "routing_consistency",
    "ScoreCache": "resolution_cache",
    "SearchSample": "resolution_samples",
    "TokenThroughput": "token_throughput",
    "average_checkpoints": "averaging_folder",
    "average_state_dicts": "averaging_states",
    "budget_grid": "resolution_samples",
    "command_score": "averaging_greedy",
    "draw_resolution_curve": "resolution_curve",
    "greedy_soup": "averaging_greedy",
    "search_resolution": "resolution_search",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
