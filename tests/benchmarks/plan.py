"""Planning an epoch of a million samples: seconds, memory, how full packs are, how even ranks are.

The set: log-normal texts (median 150 tokens), 35 % of the samples without a picture, 50 % with one, 15 % with two to
four; pictures of 56 to 2,000 pixels a side, capped at 1,280 visual tokens; 665 tokens a sample in the mean, 63 % of
them visual. Packs hold 8,192 tokens and 32,768 patches. Costs are those of an 8B language model with a 0.6B tower.

Rivals on the same shuffled samples: first fit with 64 open packs, and sequential packing, which closes a pack when the
next sample does not fit; their packs go to ranks in the order in which they come.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import no_type_check

import numpy as np
from numba import njit

from mindvl.data.cost import CostModel, max_over_mean
from mindvl.data.mixture import Source, mix
from mindvl.data.plan import Epoch, PackBudget, PackPlan
from tests.benchmarks.rows import Row

ROWS = (
    "plan_1m_s",
    "plan_10m_over_1m_ratio",
    "plan_10m_over_3m_ratio",
    "plan_first_call_s",
    "plan_bytes_per_sample",
    "pack_fill_ratio",
    "pack_fill_first_fit_ratio",
    "pack_fill_sequential_ratio",
    *(f"rank_cost_max_over_mean_{ranks}{rival}" for ranks in (8, 64) for rival in ("", "_first_fit", "_sequential")),
)
BUDGET = PackBudget(tokens=8192, patches=32_768, images=64)
COST = CostModel(
    token=16e9, token_pair=2 * 4096 * 36, patch=1.26e9 + 4 * 1280 * 28 * 64, patch_pair=4 * 1280 * 4
)  # FLOPs of a forward pass: Qwen3-8B; Qwen2.5-VL's tower with 28 windowed and 4 full layers


def samples(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of the set."""
    rng = np.random.default_rng(seed)
    text = np.clip(np.exp(rng.normal(5.0, 1.0, count)), 4, 6000).astype(np.int32)
    kind = rng.random(count)
    images = np.where(kind < 0.35, 0, np.where(kind < 0.85, 1, rng.integers(2, 5, count))).astype(np.int32)
    visual, vision_cost = np.zeros(count, np.int32), np.zeros(count)
    for number in range(4):
        height = np.clip(np.exp(rng.normal(6.2, 0.5, count)), 56, 2000)
        width = np.clip(height * np.exp(rng.normal(0, 0.3, count)), 56, 2000)
        shrink = np.minimum(1, np.sqrt(1280 * 784 / (height * width)))
        grid = np.maximum(1, np.rint(height * shrink / 28)) * np.maximum(1, np.rint(width * shrink / 28))
        grid = np.where(images > number, grid, 0).astype(np.int32)
        visual, vision_cost = visual + grid, vision_cost + COST.vision(4 * grid)
    tokens = np.minimum(text + visual, BUDGET.tokens).astype(np.int32)
    return {
        "tokens": tokens,
        "patches": 4 * visual,
        "images": images,
        "language_cost": COST.language(tokens).astype(np.float32),
        "vision_cost": vision_cost.astype(np.float32),
    }


def plan_of(columns: dict[str, np.ndarray], *, packs_per_step: int = 64) -> PackPlan:
    starts = np.asarray([0, len(columns["tokens"])])
    mixture = mix([Source("set")], starts, columns["tokens"], weigh_by="epochs", seed=0)
    return PackPlan(**columns, mixture=mixture, budget=BUDGET, packs_per_step=packs_per_step, seed=0)


def measure() -> list[Row]:
    start = time.perf_counter()
    plan_of(samples(2000)).epoch(0)
    first_call_s = time.perf_counter() - start  # compiles, or loads what an earlier process compiled
    million = samples(1_000_000)
    seconds = min(_plan_s(million) for _ in range(3))
    three_million_s, ten_million_s = (
        min(_plan_s(columns) for _ in range(2)) for columns in (samples(3_000_000, seed=1), samples(10_000_000, seed=1))
    )
    tracemalloc.start()
    kept = plan_of(million)
    kept.epoch(0)
    peak_bytes = tracemalloc.get_traced_memory()[1] + sum(column.nbytes for column in million.values())
    tracemalloc.stop()
    epochs = {ranks: plan_of(million, packs_per_step=ranks).epoch(0) for ranks in (8, 64)}
    order = plan_of(million).mixture.draw(0)
    rivals = {"first_fit": _rival(million, order, 64), "sequential": _rival(million, order, 1)}
    fill = {name: million["tokens"].sum() / BUDGET.tokens / len(epoch) for name, epoch in rivals.items()}
    rows = [
        Row("plan_1m_s", seconds, "s", "1,000,000 samples into packs of 8,192 tokens, 64 a step"),
        Row("plan_10m_over_1m_ratio", ten_million_s / seconds, "ratio", f"10,000,000 samples: {ten_million_s:.1f} s"),
        Row("plan_10m_over_3m_ratio", ten_million_s / three_million_s, "ratio", "both leave the cache; 3.3 is linear"),
        Row("plan_first_call_s", first_call_s, "s", "2,000 samples, compiled or loaded from the cache on disk"),
        Row("plan_bytes_per_sample", peak_bytes / 1_000_000, "bytes", "columns of the plan and peak while planning"),
        Row("pack_fill_ratio", million["tokens"].sum() / BUDGET.tokens / len(epochs[64]), "ratio"),
        Row("pack_fill_first_fit_ratio", fill["first_fit"], "ratio", "64 open packs"),
        Row("pack_fill_sequential_ratio", fill["sequential"], "ratio"),
    ]
    for ranks, epoch in epochs.items():
        rows.append(Row(f"rank_cost_max_over_mean_{ranks}", _imbalance(epoch, million, ranks), "ratio"))
        for name, rival in rivals.items():
            rows.append(Row(f"rank_cost_max_over_mean_{ranks}_{name}", _imbalance(rival, million, ranks), "ratio"))
    for epoch in epochs.values():
        assert epoch.sums(million["tokens"]).max() <= BUDGET.tokens
        assert epoch.sums(million["patches"]).max() <= BUDGET.patches
    return rows


def _plan_s(columns: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    plan_of(columns).epoch(0)
    return time.perf_counter() - start


def _imbalance(epoch: Epoch, columns: dict[str, np.ndarray], ranks: int) -> float:
    cost = epoch.sums(columns["language_cost"].astype(np.float64) + columns["vision_cost"])
    return max_over_mean(cost[: len(cost) // ranks * ranks].reshape(-1, ranks))


def _rival(columns: dict[str, np.ndarray], order: np.ndarray, open_packs: int) -> Epoch:
    pack = _first_fit(columns["tokens"][order], columns["patches"][order], BUDGET.tokens, BUDGET.patches, open_packs)
    starts = np.concatenate([[0], np.cumsum(np.bincount(pack))])
    return Epoch(order[np.argsort(pack, kind="stable")], starts)


@njit(cache=True)
@no_type_check
def _first_fit(tokens, patches, cap_tokens, cap_patches, open_packs):
    """Each sample into the first open pack with room; the oldest is closed when a new one is needed."""
    pack = np.empty(len(tokens), np.int64)
    number = np.full(open_packs, -1, np.int64)
    free_tokens, free_patches = np.zeros(open_packs, np.int64), np.zeros(open_packs, np.int64)
    opened = 0
    for sample in range(len(tokens)):
        chosen = -1
        for place in range(open_packs):
            if number[place] >= 0 and free_tokens[place] >= tokens[sample] and free_patches[place] >= patches[sample]:
                chosen = place
                break
        if chosen < 0:
            chosen = opened % open_packs
            number[chosen], free_tokens[chosen], free_patches[chosen] = opened, cap_tokens, cap_patches
            opened += 1
        free_tokens[chosen] -= tokens[sample]
        free_patches[chosen] -= patches[sample]
        pack[sample] = number[chosen]
    return pack
