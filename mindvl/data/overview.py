"""What a plan holds, in words: printed before training, compared when a run is resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from mindvl.data.consumed import format_table
from mindvl.data.cost import max_over_mean
from mindvl.data.plan import PackPlan
from mindvl.data.table import SampleTable

_VIDEO_BOUNDS = ("min", "max", "total")


def describe(table: SampleTable, plan: PackPlan, **settings: Any) -> dict[str, Any]:
    """Everything that decides the packs, flat, by the names that a config uses.

    Shards are known by their checksums, so a folder that was moved is still the same data.
    """
    described: dict[str, Any] = {
        **settings,
        "sequence_length": plan.budget.tokens,
        "patch_budget": plan.budget.patches,
        "max_images": plan.budget.images,
        "packs_per_step": plan.packs_per_step,
        "seed": plan.seed,
        "too_long": table.too_long,
        "min_pixels": table.pixels.min_pixels,
        "max_pixels": table.pixels.max_pixels,
        "cost": [float(f"{value:.6g}") for value in dataclasses.astuple(table.cost)],
    }
    if table.has_video.any():
        described |= {f"video_{name}_pixels": getattr(table.pixels, f"video_{name}_pixels") for name in _VIDEO_BOUNDS}
    owners = [table.source_of(int(row)) for row in np.unique(table.shard, return_index=True)[1]]
    shards = dict(zip(np.unique(table.shard).tolist(), owners, strict=True))
    for number, (name, source) in enumerate(table.sources.items()):
        digest = hashlib.blake2b(digest_size=8)
        mine = [table.shards[shard] for shard, owner in shards.items() if owner == name]
        for location in mine:
            digest.update(table.checksums[location].encode())
        described |= {
            f"{name}.weight": source.weight,
            f"{name}.max_samples": source.max_samples,
            f"{name}.max_epochs": source.max_epochs,
            f"{name}.shards": len(mine),
            f"{name}.samples": int(table.starts[number + 1] - table.starts[number]),
            f"{name}.content": digest.hexdigest(),
        }
    return described


def fingerprint_of(described: dict[str, Any], plan: PackPlan) -> str:
    """Identifies the list of packs; a resumed run must have the same."""
    state = json.dumps([described, plan.fingerprint], sort_keys=True)
    return hashlib.blake2b(state.encode(), digest_size=8).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each setting that is not what it was."""
    absent = "absent"
    return [
        f"{key}: {before.get(key, absent)} in the checkpoint, {now.get(key, absent)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
    ]


def overview(table: SampleTable, plan: PackPlan) -> str:
    """An epoch of the plan as text: what each source gives, how full packs are, how even ranks will be."""
    epoch = plan.epoch(0)
    times = np.bincount(epoch.rows, minlength=len(table))
    head = ("source", "samples", "per epoch", "of samples", "tokens", "of tokens", "learnt", "of learnt")
    rows: list[tuple[str, ...]] = [head]
    weighed = [
        times * column.astype(np.int64) for column in (np.ones_like(table.tokens), table.tokens, table.supervised)
    ]
    totals = [max(1, int(column.sum())) for column in weighed]
    for number, name in enumerate(table.names):
        part = slice(int(table.starts[number]), int(table.starts[number + 1]))
        drawn = [int(column[part].sum()) for column in weighed]
        counted = [text for n, total in zip(drawn, totals, strict=True) for text in (f"{n:,}", f"{n / total:.1%}")]
        rows.append((name, f"{part.stop - part.start:,}", *counted))
    fill = epoch.sums(table.tokens.astype(np.int64)).sum() / max(1, len(epoch) * plan.budget.tokens)
    summary = f"{len(epoch):,} packs of {plan.budget.tokens:,} tokens an epoch, {fill:.1%} full"
    if plan.packs_per_step > 1 and len(epoch):
        cost = epoch.sums(plan.language_cost.astype(np.float64)) + epoch.sums(plan.vision_cost.astype(np.float64))
        ratio = max_over_mean(cost.reshape(-1, plan.packs_per_step))
        summary += f", {plan.packs_per_step} a step, predicted max/mean cost {ratio:.3f}"
    return f"{format_table(rows)}\n{summary}"
