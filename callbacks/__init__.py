"""Callbacks and tools for any Lightning project; nothing here knows MindVL."""

from .averaging_folder import average_checkpoints
from .averaging_greedy import command_score, greedy_soup
from .averaging_states import average_state_dicts
from .checkpoint_averaging import CheckpointAveraging
from .packing_statistics import PackFacts, PackingStatistics
from .resolution_cache import ScoreCache
from .resolution_callback import ResolutionSearch
from .resolution_curve import draw_resolution_curve
from .resolution_samples import SearchSample, budget_grid
from .resolution_search import BudgetScore, ResolutionResult, search_resolution
from .routing_consistency import RoutingConsistency
from .token_throughput import TokenThroughput

__all__ = [
    "BudgetScore",
    "CheckpointAveraging",
    "PackFacts",
    "PackingStatistics",
    "ResolutionResult",
    "ResolutionSearch",
    "RoutingConsistency",
    "ScoreCache",
    "SearchSample",
    "TokenThroughput",
    "average_checkpoints",
    "average_state_dicts",
    "budget_grid",
    "command_score",
    "draw_resolution_curve",
    "greedy_soup",
    "search_resolution",
]
