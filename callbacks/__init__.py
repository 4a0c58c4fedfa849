"""Callbacks and tools for any Lightning project; nothing here knows MindVL."""

from .checkpoint_averaging import average_state_dicts
from .packing_statistics import PackFacts, PackingStatistics
from .resolution_search import BudgetScore, ResolutionResult, search_resolution
from .token_throughput import TokenThroughput

__all__ = [
    "BudgetScore",
    "PackFacts",
    "PackingStatistics",
    "ResolutionResult",
    "TokenThroughput",
    "average_state_dicts",
    "search_resolution",
]
