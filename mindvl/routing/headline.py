"""The dozen numbers that come first, for the page and for a terminal: each trace a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.routing.bootstrap import Interval
from mindvl.routing.groups import specialization
from mindvl.routing.measure import HEADLINE_LENGTH, Measured
from mindvl.routing.published import SOURCE, published_model

Cell = tuple[str, str]
"""A value and its interval, as text; an empty interval where there is none."""


@dataclass(frozen=True)
class HeadlineRow:
    """One number of every trace."""

    name: str
    meaning: str
    read: Callable[[Measured], Cell]
    is_part: bool = False
    """Whether it explains the row before it."""


ROWS: tuple[HeadlineRow, ...] = (
    HeadlineRow(
        f"SRP, {HEADLINE_LENGTH} tokens, %",
        "F1 of the best choice of experts per segment; 100: constant within segments",
        lambda trace: interval_text(trace.srp[HEADLINE_LENGTH]),
    ),
    HeadlineRow("its floor, %", "choosing every expert always", lambda trace: (percent(trace.floor), ""), True),
    HeadlineRow(
        "size ratio",
        "experts that the best choice keeps, over the router's own",
        lambda trace: (number(trace.size_ratio), ""),
        True,
    ),
    HeadlineRow(
        "LRU hits, 2 k per layer, %",
        "requests that a cache of twice a token's experts answers",
        lambda trace: interval_text(_at(trace.lru, trace.double)),
    ),
    HeadlineRow(
        "best possible, %",
        "Belady's rule, which knows the future",
        lambda trace: (percent(float(trace.hit_rate["belady"][trace.double - 1])), ""),
        True,
    ),
    HeadlineRow("regret, %", "share of these hits that LRU misses", lambda trace: (percent(_regret(trace)), ""), True),
    HeadlineRow(
        "LRU hits, one cache, %",
        "one cache of 2 k x layers for all layers; on at most 64 samples",
        lambda trace: interval_text(trace.pooled_lru),
    ),
    HeadlineRow(
        "SCH, one cache, %",
        "the same as the paper defines it; on at most 64 samples",
        lambda trace: interval_text(trace.pooled_sch),
    ),
    HeadlineRow(
        "load balance, SD %",
        "spread of the experts' use; 0 is even",
        lambda trace: (number(trace.load_balance_percent), ""),
    ),
    HeadlineRow(
        f"working set, {HEADLINE_LENGTH} tokens",
        "different experts of a layer in a segment",
        lambda trace: (f"{trace.working_set[HEADLINE_LENGTH]:.1f}", f"of {trace.meta.num_experts}"),
    ),
    HeadlineRow(
        "reuse, %",
        "requests that the token before made too",
        lambda trace: (percent(float(trace.reuse.mean())), f"chance {percent(trace.meta.k / trace.meta.num_experts)}"),
    ),
    HeadlineRow(
        "lifetime, tokens",
        "mean stay of an expert in the LRU cache of 2 k",
        lambda trace: (f"{trace.lifetime_tokens:.1f}", ""),
    ),
    HeadlineRow(
        "domain specialization",
        "coefficient of variation of use over domains, mean over experts",
        lambda trace: (number(specialization(trace.domains, trace.srp_experts)[0]), ""),
    ),
)


def headline_text(traces: Sequence[Measured]) -> str:
    """The headline numbers for a terminal, one column per trace."""
    table = [["", *(trace.name for trace in traces)]]
    table.append(["tokens, samples", *(f"{trace.num_tokens:,}, {trace.num_samples:,}" for trace in traces)])
    table.append(["MoE layers, experts, k", *(shape_text(trace) for trace in traces)])
    for row in ROWS:
        cells = ["  ".join(part for part in row.read(trace) if part) for trace in traces]
        table.append([f"  {row.name}" if row.is_part else row.name, *cells])
    rows = [published_model(trace.meta.model, trace.meta.part) for trace in traces]
    if any(rows):
        table.append([f"published SRP, % ({SOURCE})", *(str(row.srp_percent) if row else "-" for row in rows)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def interval_text(interval: Interval) -> Cell:
    """Estimate and 95 % interval in percent: ("50.9", "50.4 to 51.3")."""
    low, high = float(interval.low), float(interval.high)
    return percent(float(interval.estimate)), "" if math.isnan(low) else f"{percent(low)} to {percent(high)}"


def percent(ratio: float) -> str:
    """0.509 -> "50.9"; the sign stands in the heading. A dash for what does not exist."""
    return "-" if math.isnan(ratio) else f"{100 * ratio:.1f}"


def number(value: float) -> str:
    """Two decimals, or a dash for what does not exist."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def shape_text(trace: Measured) -> str:
    """MoE layers, experts of each and experts per token: "16, 64, 8"."""
    return f"{len(trace.meta.layers)}, {trace.meta.num_experts}, {trace.meta.k}"


def _regret(trace: Measured) -> float:
    """1 - LRU / best, at 2 k."""
    return 1 - float(trace.hit_rate["lru"][trace.double - 1] / trace.hit_rate["belady"][trace.double - 1])


def _at(curve: Interval, slots: int) -> Interval:
    return Interval(*(np.asarray(values[slots - 1]) for values in (curve.estimate, curve.low, curve.high)))
