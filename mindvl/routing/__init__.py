"""How a mixture of experts routes: recorded traces, local consistency and cache behaviour.

Names are loaded when they are first asked for, so that a command's help does not wait for a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "segment_routing": "segments",
    "SegmentScores": "segments",
    "scores_from_counts": "segments",
    "window_histograms": "windows",
    "WindowHistogram": "windows",
    "cache_hits": "cache",
    "HitCurve": "cache",
    "SegmentRouting": "metrics",
    "CacheHits": "metrics",
    "load_balance": "balance",
    "domain_specialization": "balance",
    "domain_difference": "balance",
    "domain_correlation": "balance",
    "pearson": "balance",
    "vocabulary_specialization": "vocabulary",
    "consecutive_reuse": "reuse",
    "working_set": "reuse",
    "expert_lifetime": "reuse",
    "random_srp": "floors",
    "random_hit_rate": "floors",
    "random_routing": "floors",
    "measured_random_hit_rate": "floors",
    "regret": "floors",
    "basic_bootstrap": "bootstrap",
    "segment_routing_interval": "bootstrap",
    "hit_rate_interval": "bootstrap",
    "top_k_ids": "logits",
    "RoutingRecorder": "recorder",
    "record_routing": "recorder",
    "Matcher": "matchers",
    "find_moe_layers": "matchers",
    "matchers_table": "families",
    "RoutingSample": "sample",
    "TokenKind": "sample",
    "TraceMeta": "sample",
    "Recording": "sample",
    "Trace": "trace",
    "TraceWriter": "trace",
    "write_trace": "trace",
    "read_vllm": "trace_readers",
    "vllm_recording": "trace_readers",
    "read_megatron": "trace_readers",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
