"""A trace ends in one page that shows how its model routes, beside what the paper printed of twenty others.

    write_report([measure(Trace("traces/olmoe"))], out=Path("report.html"))

The page is a single file with all pictures inside, so that it can be mailed. It measures nothing: that was done by
`mindvl.routing.measure`. `mindvl.routing.headline` says the first of it in a terminal.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindvl.routing import figures
from mindvl.routing.deployment import GIGABYTE, Advice, CacheRow, Machine, advise, cache_rows, rows_to_show
from mindvl.routing.drawing import svg
from mindvl.routing.headline import ROWS, interval_text, number, percent, shape_text
from mindvl.routing.measure import HEADLINE_LENGTH, Measured
from mindvl.routing.published import PUBLISHED, SOURCE

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Deployment:
    """The practitioner's table of one trace."""

    machine: Machine
    rows: list[CacheRow]
    advice: Advice
    chart: str


@dataclass(frozen=True, eq=False)
class TraceSection:
    """What the page shows of one trace alone."""

    measured: Measured
    charts: dict[str, str]
    facts: list[tuple[str, str]]
    deployment: Deployment | None


def write_report(
    traces: Sequence[Measured],
    *,
    out: Path,
    machines: Sequence[Machine | None] | None = None,
    compare: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        traces: measured traces, in the order of the page; with unequal names, by which readers tell them apart.
        machines: for each trace the sizes and speeds of its deployment table; None leaves the table out.
        compare: only what sets the traces beside each other, without a section for each.
        settings: how the numbers were made, printed at the end.

    Raises:
        ValueError: without traces, when two have one name, for a comparison of fewer than two, or for a memory that
            not even the experts of one token fit into.
    """
    names = [trace.name for trace in traces]
    if not traces:
        raise ValueError("there is no trace to report")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two traces are called {twice!r}; give each a name of its own")
    if compare and len(traces) < 2:
        raise ValueError(f"a comparison needs at least 2 traces, there is {len(traces)}")
    machines = list(machines or [None] * len(traces))
    several = {"caches": figures.draw_compared_caches, "layers": figures.draw_compared_layers}
    charts = {"srp": figures.draw_srp(traces), "published": figures.draw_published(traces)}
    charts |= {name: draw(traces) for name, draw in several.items() if len(traces) > 1}
    sections = [] if compare else [_section(*each) for each in zip(traces, machines, strict=True)]
    page = _template().render(
        traces=traces,
        compare=compare,
        headline=[(row, [row.read(trace) for trace in traces]) for row in ROWS],
        charts={name: _uri(figure) for name, figure in charts.items()},
        published=_with_published(traces),
        sections=sections,
        settings=settings or {},
        source=SOURCE,
        length=HEADLINE_LENGTH,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def deployment_text(trace: Measured, machine: Machine) -> str:
    """The practitioner's table for a terminal."""
    rows, advice = deployment_of(trace, machine)
    lines = [f"{'slots':>6} {'GB':>8} {'hits %':>7} {'misses/token':>13} {'MB/token':>9} {'tokens/s <=':>12}"]
    for row in rows_to_show(rows, trace.meta.k, advice.slots):
        mark = "  <- advised" if row.slots == advice.slots else ""
        size = f"{row.slots:>6} {row.cache_bytes / GIGABYTE:>8.2f} {100 * row.hit_rate:>7.1f}"
        cost = f"{row.misses_per_token:>13.1f} {row.bytes_per_token / 1e6:>9.0f} {speed(row.link_tokens_per_s):>12}"
        lines.append(f"{size} {cost}{mark}")
    return "\n".join([*lines, f"advised: {advice.slots} experts per layer, {advice.reason}"])


def deployment_of(trace: Measured, machine: Machine) -> tuple[list[CacheRow], Advice]:
    """All cache sizes on a machine, first loads counted, and which to take. Raises ValueError when none fits."""
    rows = cache_rows(
        trace.hit_rate["lru_counted"],
        machine=machine,
        layers=len(trace.meta.layers),
        k=trace.meta.k,
        requests_per_token=trace.requests_per_token,
    )
    return rows, advise(rows, machine=machine, k=trace.meta.k)


def _section(trace: Measured, machine: Machine | None) -> TraceSection:
    charts = {
        "caches": figures.draw_caches(trace, expert_bytes=machine.expert_bytes if machine else None),
        "layers": figures.draw_layers(trace),
    }
    if len(trace.domains) > 1:
        charts["domains"] = figures.draw_domains(trace)
    if trace.kinds:
        charts["kinds"] = figures.draw_kinds(trace)
    deployment = None
    if machine is not None:
        rows, advice = deployment_of(trace, machine)
        chart = _uri(figures.draw_deployment(rows, advice.slots))
        deployment = Deployment(machine, rows_to_show(rows, trace.meta.k, advice.slots), advice, chart)
    meta = trace.meta
    facts = [
        ("model", meta.model if meta.part == "model" else f"{meta.model}, {meta.part}"),
        ("MoE layers, experts, k", shape_text(trace)),
        ("shared experts", str(meta.shared_experts)),
        ("tokens, samples", f"{trace.num_tokens:,}, {trace.num_samples:,}"),
        ("longest sample", f"{trace.longest_tokens:,} tokens"),
    ]
    dropped = 1 - trace.requests_per_token / (len(meta.layers) * meta.k)
    if dropped > 0:
        facts.append(("slots without expert", f"{percent(dropped)} %"))
    return TraceSection(trace, {name: _uri(figure) for name, figure in charts.items()}, facts, deployment)


def _with_published(traces: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows of the paper's table and of these traces, by SRP; `mine` is the trace's number, None for the paper's."""
    rows: list[dict[str, Any]] = [
        {
            "mine": None, "name": row.key, "model": row.model, "experts": row.num_experts, "k": row.k,
            "shared": row.shared, "srp": row.srp_percent, "balance": row.load_balance_percent,
            "sch": "{:.1f} to {:.1f}".format(*row.hit_rate_percent),
        }
        for row in PUBLISHED
    ]  # fmt: skip
    for place, trace in enumerate(traces):
        low, high = 100 * float(trace.pooled_sch.low), 100 * float(trace.pooled_sch.high)
        rows.append(
            {
                "mine": place, "name": trace.name, "model": trace.meta.model, "experts": trace.meta.num_experts,
                "k": trace.meta.k, "shared": trace.meta.shared_experts,
                "srp": 100 * float(trace.srp[HEADLINE_LENGTH].estimate), "balance": trace.load_balance_percent,
                "sch": f"{low:.1f} to {high:.1f}",
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["srp"])


def speed(tokens_per_s: float | None) -> str:
    """Three digits are enough for a bound."""
    if tokens_per_s is None:
        return "-"
    return "no limit" if math.isinf(tokens_per_s) else f"{float(f'{tokens_per_s:.3g}'):,g}"


def gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / GIGABYTE:,.2f}"


def _uri(figure: Any) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(figure)).decode()}"


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for function in (percent, number, speed, gigabytes, interval_text):
        environment.filters[function.__name__] = function
    return environment.get_template("report.html.j2")
