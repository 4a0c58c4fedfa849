"""The pictures of a routing report: each `draw_*` takes measured traces and returns a figure.

    draw_srp([measured]).savefig("srp.png", dpi=150)
    svg(draw_caches(measured))              # bytes, for a page

Published values are grey. What all pictures have in common is in `mindvl.routing.drawing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindvl.routing.balance import domain_correlation
from mindvl.routing.deployment import GIGABYTE, CacheRow
from mindvl.routing.drawing import (
    COLORS,
    FAINT,
    GREY,
    HEAT,
    INK,
    MARKERS,
    legend,
    new_figure,
    scaled,
    style_of,
    tidy,
)
from mindvl.routing.measure import HEADLINE_LENGTH, Measured
from mindvl.routing.published import PUBLISHED, SOURCE, SRP_OVER_LENGTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_NAMES: dict[str, tuple[str, str, Any]] = {
    "belady": ("best possible (Belady)", "#000000", "-"),
    "sch": (f"sees {HEADLINE_LENGTH} tokens ahead (SCH)", "#009E73", "-."),
    "lru": ("least recently used (LRU)", "#0072B2", "-"),
    "lfu": ("least frequently used (LFU)", "#E69F00", "--"),
    "pinned_held_out": ("pinned by other texts", "#D55E00", (0, (3, 1))),
    "pinned": ("pinned by these texts", "#CC79A7", ":"),
}


def draw_srp(traces: Sequence[Measured]) -> Figure:
    """SRP of all layers over the length of a segment, each with its floor, and three published models in grey."""
    figure = new_figure(3.9)
    axes = figure.subplots()
    for number, (key, points) in enumerate(SRP_OVER_LENGTH.items()):
        label = f"published ({SOURCE})" if number == 0 else None
        axes.plot(list(points), list(points.values()), color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), label=label)
        axes.annotate(
            key, (4, points[4]), (-3, 0), textcoords="offset points", color=GREY, fontsize=7, va="center", ha="right"
        )
    for number, trace in enumerate(traces):
        lengths = list(trace.segment_lengths)
        values, low, high = (
            [100 * float(getattr(trace.srp[length], name)) for length in lengths]
            for name in ("estimate", "low", "high")
        )
        style = style_of(number)
        axes.fill_between(lengths, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(lengths, values, label=trace.name, markersize=4.5, linewidth=1.8, **style)
        axes.axhline(100 * trace.floor, color=style["color"], linewidth=0.8, linestyle=":")
    words = "dotted: choosing every expert always"
    where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(words, (0.01, 100 * min(trace.floor for trace in traces)), (0, 3), color=GREY, fontsize=7, **where)
    axes.set_xscale("log", base=2)
    ticks = sorted({length for trace in traces for length in trace.segment_lengths} | {4, 16, 64, 256})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="segment length, tokens", ylabel="SRP of all layers, %", ylim=(0, 100))
    legend(axes)
    return figure


def draw_caches(trace: Measured, *, expert_bytes: float | None = None) -> Figure:
    """Hit rate of each policy over slots per layer, with sizes in GB on top when an expert's size is known."""
    figure = new_figure(4.1)
    axes = figure.subplots()
    k, num_experts = trace.meta.k, trace.meta.num_experts
    slots = np.arange(k, num_experts + 1)
    for name, (label, color, dashes) in CURVE_NAMES.items():
        rates = trace.hit_rate[name][k - 1 :]
        if not np.isnan(rates).all():
            axes.plot(slots, 100 * rates, color=color, linestyle=dashes, linewidth=1.8, label=label)
    axes.fill_between(
        slots, 100 * trace.lru.low[k - 1 :], 100 * trace.lru.high[k - 1 :], color=COLORS[0], alpha=0.2, linewidth=0
    )
    axes.plot(slots, 100 * slots / num_experts, color=GREY, linewidth=1, linestyle=":", label="random routing")
    for times in (1, 2, 3):
        if times * k <= num_experts:
            axes.axvline(times * k, color=FAINT, linewidth=1, zorder=0)
            axes.annotate(
                f"{times if times > 1 else ''}k",
                (times * k, 2),
                (2, 0),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
            )
    axes.set(
        xlabel="cache size, experts per layer", ylabel="requests that hit, %", ylim=(0, 101), xlim=(k, num_experts)
    )
    layers = len(trace.meta.layers)
    if expert_bytes is not None:
        scale = layers * expert_bytes / GIGABYTE
        top = axes.secondary_xaxis("top", functions=scaled(scale))
        top.set_xlabel(f"size of all {layers} layers' caches, GB", color=INK, fontsize=9)
    else:
        top = axes.secondary_xaxis("top", functions=scaled(100 / num_experts))
        top.set_xlabel("size, % of all routed experts", color=INK, fontsize=9)
    top.tick_params(colors=INK, labelsize=8, length=3)
    top.spines["top"].set_visible(False)
    legend(axes)
    return figure


def draw_layers(trace: Measured) -> Figure:
    """Heat map of every expert's SRP, a row per layer, beside the layers' SRP and LRU hit rates."""
    layers = len(trace.meta.layers)
    figure = new_figure(max(2.6, min(8.0, 0.17 * layers + 1.5)))
    heat, line = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
    ranked = -np.sort(-np.nan_to_num(trace.srp_experts, nan=-1.0), axis=1)
    shown = heat.imshow(
        np.where(ranked < 0, np.nan, 100 * ranked), aspect="auto", cmap=HEAT, interpolation="nearest",
        extent=(0.5, trace.meta.num_experts + 0.5, layers - 0.5, -0.5),
    )  # fmt: skip
    bar = figure.colorbar(shown, ax=heat, pad=0.015, fraction=0.05)
    bar.set_label("SRP of an expert, %", color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=8, length=3)
    bar.outline.set_visible(False)
    heat.set(xlabel="experts of a layer, most consistent first", ylabel="MoE layer")
    places = np.arange(layers)
    at = trace.segment_lengths.index(HEADLINE_LENGTH)
    line.plot(100 * trace.srp_layers[at], places, color=COLORS[0], marker="o", markersize=3.5, label="SRP")
    hits = 100 * trace.lru_layers[:, trace.double - 1]
    line.plot(
        hits, places, color=COLORS[1], marker="s", markersize=3.5, linestyle="--", label=f"LRU, {trace.double} slots"
    )
    line.set(xlabel="%", xlim=(0, 101))
    step = max(1, round(layers / 16))
    line.set_yticks(places[::step], [str(layer) for layer in places[::step]])
    line.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    tidy(line)
    tidy(heat, grid=False)
    return figure


def draw_domains(trace: Measured) -> Figure:
    """SRP and hit rate of each domain, and how alike the domains use the experts."""
    rows = trace.domains[::-1]
    names = [row.name for row in rows]
    figure = new_figure(max(2.4, 0.3 * len(rows) + 1.5))
    dots, heat = figure.subplots(1, 2, width_ratios=(1.5, 1))
    places = np.arange(len(rows))
    dots.axvline(100 * float(trace.srp[HEADLINE_LENGTH].estimate), color=COLORS[0], linewidth=1, linestyle=":")
    dots.axvline(100 * trace.hit_rate["lru"][trace.double - 1], color=COLORS[1], linewidth=1, linestyle=":")
    dots.plot([100 * row.srp for row in rows], places, "o", color=COLORS[0], label=f"SRP, {HEADLINE_LENGTH} tokens")
    dots.plot(
        [100 * row.hit_rate for row in rows], places, "s", color=COLORS[1], label=f"LRU hits, {trace.double} slots"
    )
    dots.set_yticks(places, names)
    dots.set(xlabel="% (dotted: all domains)", xlim=(0, 101), ylim=(-0.6, len(rows) - 0.4))
    dots.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    likeness = domain_correlation(np.array([row.activation for row in trace.domains]))
    shown = heat.imshow(likeness, cmap=HEAT, vmin=min(0.0, float(np.nanmin(likeness))), vmax=1, interpolation="nearest")
    for row, column in np.ndindex(likeness.shape):
        if len(rows) <= 8:
            ink = "white" if likeness[row, column] < 0.6 else "black"
            heat.text(column, row, f"{likeness[row, column]:.2f}", ha="center", va="center", color=ink, fontsize=7)
    ticks = np.arange(len(rows))
    heat.set_xticks(ticks, names[::-1], rotation=90 if len(rows) > 6 else 30, ha="center" if len(rows) > 6 else "right")
    heat.set_yticks(ticks, names[::-1])
    heat.set_title("same experts? (Pearson's r of use)", fontsize=9, color=INK)
    bar = figure.colorbar(shown, ax=heat, pad=0.02, fraction=0.05)
    bar.ax.tick_params(colors=INK, labelsize=8, length=3)
    bar.outline.set_visible(False)
    tidy(dots)
    tidy(heat, grid=False)
    return figure


def draw_kinds(trace: Measured) -> Figure:
    """SRP of pictures, text and generated tokens over the segment length, and how alike they use the experts."""
    figure = new_figure(3.3)
    lines, dots = figure.subplots(1, 2, width_ratios=(1.6, 1))
    first = trace.kinds[0]
    for number, row in enumerate(trace.kinds):
        lengths = [length for length in trace.segment_lengths if np.isfinite(row.srp[length])]
        label = f"{row.name}, {row.num_tokens:,} tokens"
        lines.plot(lengths, [100 * row.srp[n] for n in lengths], label=label, markersize=4.5, **style_of(number))
        if number:
            style = {"color": COLORS[number], "marker": MARKERS[number]}
            x, y = 100 * first.activation.ravel(), 100 * row.activation.ravel()
            dots.plot(x, y, linestyle="none", markersize=2, alpha=0.6, label=row.name, **style)
    lines.set_xscale("log", base=2)
    lines.set_xticks(list(trace.segment_lengths), [str(length) for length in trace.segment_lengths])
    lines.set_xticks([], minor=True)
    lines.set(xlabel="segment length, tokens", ylabel="SRP of all layers, %", ylim=(0, 100))
    lines.legend(frameon=False, fontsize=8, loc="lower left")
    top = 105 * max(float(row.activation.max()) for row in trace.kinds)
    dots.plot([0, top], [0, top], color=GREY, linewidth=0.8, linestyle=":")
    dots.set(
        xlabel=f"{first.name} tokens that use an expert, %", ylabel="of the others, %", xlim=(0, top), ylim=(0, top)
    )
    dots.legend(frameon=False, fontsize=8, loc="upper left", markerscale=2.5)
    tidy(lines)
    tidy(dots)
    return figure


def draw_published(traces: Sequence[Measured]) -> Figure:
    """The SRP of the paper's models in grey, in their order, and these traces among them."""
    rows: list[tuple[str, float, int | None]] = [(row.key, row.srp_percent, None) for row in PUBLISHED]
    rows += [(t.name, 100 * float(t.srp[HEADLINE_LENGTH].estimate), n) for n, t in enumerate(traces)]
    rows.sort(key=lambda row: row[1])
    figure = new_figure(0.19 * len(rows) + 0.9)
    axes = figure.subplots()
    for place, (_, value, number) in enumerate(rows):
        color = GREY if number is None else COLORS[number % len(COLORS)]
        axes.plot([0, value], [place, place], color=FAINT if number is None else color, linewidth=1, zorder=1)
        axes.plot(value, place, "o", color=color, markersize=4.5 if number is None else 7, zorder=2)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    for label, (_, _, number) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(GREY if number is None else COLORS[number % len(COLORS)])
        label.set_fontweight("normal" if number is None else "bold")
    axes.set(
        xlabel=f"SRP at {HEADLINE_LENGTH} tokens, % (grey: published, {SOURCE}, on its own texts)",
        xlim=(0, 100),
        ylim=(-0.7, len(rows) - 0.3),
    )
    tidy(axes, colors=False)
    return figure


def draw_compared_caches(traces: Sequence[Measured]) -> Figure:
    """LRU hit rates over the share of experts that are kept, with intervals, and the best possible in thin lines."""
    figure = new_figure(3.9)
    axes = figure.subplots()
    for number, trace in enumerate(traces):
        k, num_experts = trace.meta.k, trace.meta.num_experts
        share = 100 * np.arange(k, num_experts + 1) / num_experts
        style = {name: value for name, value in style_of(number).items() if name != "marker"}
        axes.fill_between(
            share,
            100 * trace.lru.low[k - 1 :],
            100 * trace.lru.high[k - 1 :],
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(share, 100 * trace.hit_rate["lru"][k - 1 :], linewidth=1.8, label=f"{trace.name}, LRU", **style)
        best = 100 * trace.hit_rate["belady"][k - 1 :]
        axes.plot(share, best, linewidth=0.8, alpha=0.8, **style)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":", label="random routing")
    axes.set(xlabel="cache size, % of all routed experts", ylabel="requests that hit, %", xlim=(0, 100), ylim=(0, 101))
    legend(axes, title="thin: best possible")
    return figure


def draw_compared_layers(traces: Sequence[Measured]) -> Figure:
    """SRP of each layer over its relative depth, so that models of unequal depth lie over each other."""
    figure = new_figure(3.3)
    axes = figure.subplots()
    for number, trace in enumerate(traces):
        values = 100 * trace.srp_layers[trace.segment_lengths.index(HEADLINE_LENGTH)]
        depth = 100 * (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(depth, values, label=trace.name, markersize=4, linewidth=1.5, **style_of(number))
    axes.set(xlabel="depth among the MoE layers, %", ylabel=f"SRP at {HEADLINE_LENGTH} tokens, %", xlim=(0, 100))
    axes.set_ylim(bottom=0)
    legend(axes)
    return figure


def draw_deployment(rows: Sequence[CacheRow], advised: int) -> Figure:
    """Bound on tokens per second over the size of the cache; the advised size is marked."""
    figure = new_figure(3.3)
    axes = figure.subplots()
    finite = [row for row in rows if np.isfinite(row.link_tokens_per_s)]
    sizes = [row.cache_bytes / GIGABYTE for row in finite]
    axes.plot(sizes, [row.link_tokens_per_s for row in finite], color=COLORS[0], linewidth=1.8, label="link bound")
    if finite and finite[0].exposed_tokens_per_s is not None:
        low, high = ([getattr(row, name) for row in finite] for name in ("exposed_tokens_per_s", "hidden_tokens_per_s"))
        axes.fill_between(sizes, low, high, color=COLORS[2], alpha=0.3, label="between no and full overlap")
    best = next(row for row in rows if row.slots == advised)
    axes.axvline(best.cache_bytes / GIGABYTE, color=COLORS[1], linestyle="--", linewidth=1.2)
    axes.annotate(
        f"advised: {advised} per layer", (best.cache_bytes / GIGABYTE, 0.97), (4, 0), va="top",
        xycoords=axes.get_xaxis_transform(), textcoords="offset points", color=COLORS[1], fontsize=8,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.set(xlabel="experts kept, GB over all layers", ylabel="tokens per second, at most")
    legend(axes)
    return figure
