"""The ablation's table: what the toys came to, beside the paper's values, and how far the orders agree.

| toy | SRP 16, % | ... | paper: SRP, % |        one row per config, by SRP
Order by SRP: 40 of 45 pairs as in the paper, tau 0.78
- one_shared: -1.2 points against the baseline, in the paper -2.2: agrees
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindvl.routing.published import PUBLISHED_TOYS, SEGMENT_LENGTH, SOURCE

RHOS = (1, 2, 3)
"""Cache sizes of the LRU hits, over k."""


def table_row(name: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A config's runs as one row: means, and intervals that span those of all seeds."""
    published = PUBLISHED_TOYS.get(name)
    return {
        "name": name,
        "seeds": len(results),
        "srp": _span([result["srp"] for result in results]),
        "floor": results[0]["floor"],
        "balance": float(np.mean([result["balance"] for result in results])),
        "lru": [_span([result["lru"][at] for result in results]) for at in range(len(RHOS))],
        "domain_specialization": float(np.mean([result["domain_specialization"] for result in results])),
        "held_out_loss": float(np.mean([result["held_out_loss"] for result in results])),
        "paper": None
        if published is None
        else {
            "name": published.name,
            "srp": published.srp_percent / 100,
            "balance": published.load_balance_percent,
            "lru": published.lru_hit_rates,
        },
    }


def _span(triples: Sequence[Sequence[float]]) -> list[float]:
    estimates, lows, highs = zip(*triples, strict=True)
    return [float(np.mean(estimates)), min(lows), max(highs)]


def rank_agreement(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """How many pairs of toys stand in the paper's order, and Kendall's tau; for SRP also the pairs told apart here.

    Tau is (agreeing - disagreeing) / pairs: 1 is the same order, 0 none, -1 the reverse. None with fewer than two.
    """
    known = [row for row in rows if row["paper"] is not None]
    pairs = agreeing = apart = apart_agreeing = 0
    for one, other in itertools.combinations(known, 2):
        here = _value(one, name) - _value(other, name)
        there = one["paper"][name] - other["paper"][name]
        agrees = here * there > 0
        pairs, agreeing = pairs + 1, agreeing + agrees
        if name == "srp" and (one["srp"][1] > other["srp"][2] or other["srp"][1] > one["srp"][2]):
            apart, apart_agreeing = apart + 1, apart_agreeing + agrees
    tau = (2 * agreeing - pairs) / pairs if pairs else None
    found: dict[str, Any] = {"pairs": pairs, "agreeing": agreeing, "kendall_tau": tau}
    return found | ({"apart": apart, "apart_agreeing": apart_agreeing} if name == "srp" else {})


def _value(row: dict[str, Any], name: str) -> float:
    return row[name][0] if isinstance(row[name], list) else row[name]


def table_text(rows: Sequence[dict[str, Any]], agreement: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown, with what agrees with the paper and what does not."""
    lines = [
        f"| toy | SRP {SEGMENT_LENGTH}, % | floor, % | load balance, SD % | LRU hits at 2 k, % | domain specialization "
        "| held-out loss | paper: SRP, % | SD % | LRU, % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = row["paper"]
        published = ["-"] * 3
        if paper is not None:
            hits = "-" if paper["lru"] is None else f"{100 * paper['lru'][1]:.1f}"
            published = [f"{100 * paper['srp']:.1f} ({paper['name']})", f"{paper['balance']:.2f}", hits]
        cells = [
            row["name"],
            _interval(row["srp"]),
            f"{100 * row['floor']:.1f}",
            f"{row['balance']:.2f}",
            _interval(row["lru"][1]),
            f"{row['domain_specialization']:.2f}",
            f"{row['held_out_loss']:.3f}",
            *published,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"By SRP here. Intervals: 95 % over held-out samples, {rows[0]['seeds']} seed(s). Paper: {SOURCE}."]
    for name, title in (("srp", "SRP"), ("balance", "load balance")):
        found = agreement[name]
        if found["pairs"]:
            words = f"{found['agreeing']} of {found['pairs']} pairs as in the paper, tau {found['kendall_tau']:.2f}"
            if "apart" in found:
                words += f"; of {found['apart']} pairs with separate intervals {found['apart_agreeing']}"
            lines.append(f"Order by {title}: {words}.")
    return "\n".join([*lines, *_against_baseline(rows)])


def _against_baseline(rows: Sequence[dict[str, Any]]) -> list[str]:
    """For each toy, whether its SRP lies on the paper's side of the baseline's."""
    baseline = next((row for row in rows if row["name"] == "baseline" and row["paper"]), None)
    if baseline is None:
        return []
    lines = []
    for row in rows:
        if row is baseline or row["paper"] is None:
            continue
        here = 100 * (row["srp"][0] - baseline["srp"][0])
        there = 100 * (row["paper"]["srp"] - baseline["paper"]["srp"])
        verdict = "agrees" if here * there > 0 else "disagrees"
        lines.append(f"- {row['name']}: {here:+.1f} points against the baseline, in the paper {there:+.1f}: {verdict}")
    return ["", *lines]


def _interval(triple: Sequence[float]) -> str:
    estimate, low, high = (100 * value for value in triple)
    return f"{estimate:.1f} ({low:.1f} to {high:.1f})"
