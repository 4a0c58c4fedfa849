"""Packs of one global step cost alike, so that no rank waits for another.

All packs are full, but they are not equally dear: long documents cost more attention, pictures cost the vision tower.
Packs are sorted by vision cost into strips and by their whole cost within a strip; neighbours then agree in both, and
`packs_per_step` neighbours make a step. The steps are shuffled. The packs that are left over, fewer than a step, are
taken apart and spread over one more step, dearest sample first onto the cheapest pack, so that no rank stands idle.
"""

from __future__ import annotations

import numpy as np


def group_into_steps(
    language: np.ndarray, vision: np.ndarray, *, packs_per_step: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, packs_per_step) pack numbers in the order of training, and the packs that are left over.

    Costs are per pack. Which packs are left over, and the order of steps and of packs in a step, are drawn from `rng`.
    """
    shuffled = rng.permutation(len(language))
    num_steps = len(shuffled) // packs_per_step
    kept, left = shuffled[: num_steps * packs_per_step], shuffled[num_steps * packs_per_step :]
    if packs_per_step == 1:
        return kept.reshape(-1, 1), left
    whole = language + vision
    kept = kept[np.argsort(vision[kept], kind="stable")]
    strips = np.array_split(np.arange(num_steps), max(1, round(num_steps**0.5)))
    for strip in strips:
        if len(strip):
            part = slice(strip[0] * packs_per_step, (strip[-1] + 1) * packs_per_step)
            kept[part] = kept[part][np.argsort(whole[kept[part]], kind="stable")]
    steps = rng.permuted(kept.reshape(num_steps, packs_per_step), axis=1)
    return steps[rng.permutation(num_steps)], left


def spread(
    packs: list[np.ndarray], *, over: int, cost: np.ndarray, needs: np.ndarray, capacity: tuple[int, int, int]
) -> list[np.ndarray]:
    """The samples of `packs` in `over` packs, which are more, of nearly equal cost.

    `cost` (samples) and `needs` (samples, 3: tokens, patches, images) are columns over all samples. Packs stay empty
    where there are fewer samples than packs, or where the samples do not go together in any other way.
    """
    rows = np.concatenate(packs)
    members: list[list[int]] = [[] for _ in range(over)]
    spent, free = np.zeros(over), np.tile(np.asarray(capacity, np.int64), (over, 1))
    for row in rows[np.argsort(-cost[rows], kind="stable")].tolist():
        fits = (free >= needs[row]).all(axis=1)
        if not fits.any():
            return [*packs, *[np.zeros(0, np.int64)] * (over - len(packs))]
        pack = int(np.where(fits, spent, np.inf).argmin())
        spent[pack] += cost[row]
        free[pack] -= needs[row]
        members[pack].append(row)
    return [np.asarray(pack, np.int64) for pack in members]
