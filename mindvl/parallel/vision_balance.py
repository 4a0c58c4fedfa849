"""Pictures move between ranks before the tower, and their features back after it, so that no tower waits for another.

Plans make packs that cost alike (`mindvl.data.plan`), but a pack of long texts and one of large pictures cost alike
only over both parts of the model; the tower of the second works while that of the first waits. What travels is cheap:
a picture of 1,280 visual tokens is 3 MB of bytes and 9 MB of features, and 7 TFLOP in Qwen2.5-VL's tower.

    rank    pictures      cost       after one move
    0       4 3 3         10         3 3
    1       1             1          1 4
                          10 / 5.5 = 1.82 of the mean    6 / 5.5 = 1.09

Every rank knows the sizes of all pictures, and decides the same from them: move only when the dearest rank costs more
than `trigger` times the mean, and when what it saves takes longer than the transfer. Whole pictures move, so attention
is what it was. Features come back by the reverse exchange, and their gradients the way the features came from.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from mindvl.batch import ImageGrid, VisionInputs
from mindvl.ops.exchange import exchange_rows


@dataclass(frozen=True)
class VisionBalance:
    """When pictures move.

    Args:
        trigger: cost of the dearest rank over the mean, from which on ranks exchange pictures.
        flops_per_byte: operations of a device in the time that a byte takes to another one, to tell what a move gains.
            989 TFLOP/s and 50 GB/s, an H100 on its network, are 20,000; a 910B has 12,500.
    """

    trigger: float = 1.15
    flops_per_byte: float = 20_000.0

    def __post_init__(self) -> None:
        if self.trigger < 1:
            raise ValueError(f"vision_balance.trigger is {self.trigger}; the dearest rank costs at least 1 of the mean")
        if self.flops_per_byte < 0:
            raise ValueError(f"vision_balance.flops_per_byte is {self.flops_per_byte}; it is not negative")


class Moved(NamedTuple):
    """A rank's part of a balanced step."""

    inputs: VisionInputs | None
    """Pictures that this rank's tower sees; None where it has none."""
    give_back: Callable[[Tensor], Tensor]
    """From the features of these, in their order, those of the rank's own pack; every rank must call it."""


class PictureBalance:
    """One rank's side of the exchange.

    Args:
        group: ranks that read different packs.
        cost: FLOPs of the forward pass of pictures with the given numbers of patches.
        lay_out: makes a tower's inputs of patches and grids.
        merge: patches per side of a visual token.
        feature_bytes: of one visual token's vector.
        passes: a forward pass counts once; with gradients of inputs and weights, three times.
    """

    def __init__(
        self,
        settings: VisionBalance,
        group: dist.ProcessGroup,
        *,
        cost: Callable[[np.ndarray], np.ndarray],
        lay_out: Callable[[Tensor, Sequence[ImageGrid]], VisionInputs],
        merge: int,
        feature_bytes: int,
        passes: int,
    ):
        self.settings, self.group, self.cost, self.lay_out = settings, group, cost, lay_out
        self.merge, self.feature_bytes, self.passes = merge, feature_bytes, passes
        self._seen: list[tuple[bool, float, float]] = []

    def move(self, vision: VisionInputs | None, device: torch.device) -> Moved | None:
        """Exchange pictures with the other ranks; None where all keep their own. Every rank must call it."""
        grids, pixels = self._gather(vision, device)
        costs = [self._costs(each) for each in grids]
        before = [sum(each) for each in costs]
        holders = None
        if pixels and max_over_mean(before) > self.settings.trigger:
            holders = plan_moves(costs)
            after = loads_of(costs, holders)
            gain_flops = self.passes * (max(before) - max(after))
            if gain_flops <= self.settings.flops_per_byte * self._dearest_transfer_bytes(grids, holders, pixels):
                holders = None
        balanced = before if holders is None else after
        if any(before):
            self._seen.append((holders is not None, max_over_mean(before), max_over_mean(balanced)))
        return None if holders is None else self._exchange(vision, grids, holders, pixels, device)

    def report(self) -> dict[str, float]:
        """Means over the packs with pictures since the last report: share balanced, max over mean before and after."""
        if not self._seen:
            return {}
        balanced, before, after = np.mean(self._seen, axis=0).tolist()
        self._seen = []
        return {
            "vision_balance/balanced_ratio": balanced,
            "vision_balance/max_over_mean_before": before,
            "vision_balance/max_over_mean_after": after,
        }

    def _gather(self, vision: VisionInputs | None, device: torch.device) -> tuple[list[list[ImageGrid]], int]:
        """The pictures of all ranks, and the bytes of a patch: 0 where there is none, or patches differ in kind."""
        own = torch.zeros(0, 3, dtype=torch.int64, device=device) if vision is None else vision.grid_thw.to(device)
        width = 0 if vision is None else vision.patches.shape[1]
        is_bytes = vision is None or vision.patches.dtype == torch.uint8
        heads = self._all(torch.tensor([len(own), width, int(is_bytes)], device=device))
        counts = [count for count, _, _ in heads]
        padded = own.new_zeros(max(1, *counts), 3)
        padded[: len(own)] = own
        rows = self._all(padded)
        grids = [[ImageGrid(*row) for row in each[:count]] for each, count in zip(rows, counts, strict=True)]
        kinds = {(width, is_bytes) for count, width, is_bytes in heads if count}
        return grids, next(iter(kinds))[0] if len(kinds) == 1 and all(kind[1] for kind in kinds) else 0

    def _all(self, own: Tensor) -> list:
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(everyone, own, group=self.group)
        return torch.stack(everyone).tolist()

    def _costs(self, grids: Sequence[ImageGrid]) -> list[float]:
        """Frames of a video do not attend to each other."""
        frames = np.array([grid.frames for grid in grids], dtype=np.float64)
        return (frames * self.cost(np.array([grid.height * grid.width for grid in grids], dtype=np.int64))).tolist()

    def _dearest_transfer_bytes(
        self, grids: Sequence[Sequence[ImageGrid]], holders: Sequence[Sequence[int]], pixels: int
    ) -> int:
        """Of the rank that sends or receives most: patches one way, features back, and their gradients."""
        patch_bytes = pixels + 2 * self.feature_bytes / self.merge**2
        moved = np.zeros(len(grids))
        for rank, (pictures, places) in enumerate(zip(grids, holders, strict=True)):
            for grid, holder in zip(pictures, places, strict=True):
                if holder != rank:
                    moved[[rank, holder]] += grid.patches * patch_bytes
        return int(moved.max())

    def _exchange(
        self,
        vision: VisionInputs | None,
        grids: Sequence[Sequence[ImageGrid]],
        holders: Sequence[Sequence[int]],
        pixels: int,
        device: torch.device,
    ) -> Moved:
        rank, ranks = dist.get_rank(self.group), len(grids)
        own, places = grids[rank], holders[rank]
        going = sorted(range(len(own)), key=lambda number: places[number])  # by rank, in reading order
        coming = [
            [grid for grid, holder in zip(grids[source], holders[source], strict=True) if holder == rank]
            for source in range(ranks)
        ]
        sent = [sum(own[number].patches for number in going if places[number] == holder) for holder in range(ranks)]
        received = [sum(grid.patches for grid in pictures) for pictures in coming]
        patches = torch.zeros(0, pixels, dtype=torch.uint8, device=device) if vision is None else vision.patches
        rows = rows_in_order([grid.patches for grid in own], going)
        patches = exchange_rows(patches[torch.from_numpy(rows).to(device)], sent, received, self.group)
        arrived = [grid for pictures in coming for grid in pictures]
        home = np.argsort(rows_in_order([grid.merged(self.merge) for grid in own], going))
        unit = self.merge**2

        def give_back(features: Float[Tensor, "merged dim"]) -> Tensor:
            returned = exchange_rows(
                features, [count // unit for count in received], [count // unit for count in sent], self.group
            )
            return returned.index_select(0, torch.from_numpy(home).to(device))

        return Moved(self.lay_out(patches, arrived) if arrived else None, give_back)


def plan_moves(costs: Sequence[Sequence[float]]) -> list[list[int]]:
    """Which rank sees each picture, given what pictures cost on the rank that has them: the same on every rank.

    The dearest rank hands the cheapest the picture that comes closest to evening out the two, until none helps.
    """
    holders = [[rank] * len(pictures) for rank, pictures in enumerate(costs)]
    held = [[(cost, rank, number) for number, cost in enumerate(pictures)] for rank, pictures in enumerate(costs)]
    loads = [sum(pictures) for pictures in costs]
    dearest_first = [(-load, rank) for rank, load in enumerate(loads)]
    cheapest_first = [(load, rank) for rank, load in enumerate(loads)]
    heapq.heapify(dearest_first)
    heapq.heapify(cheapest_first)
    for _ in range(2 * sum(map(len, costs))):
        while -dearest_first[0][0] != loads[dearest_first[0][1]]:
            heapq.heappop(dearest_first)
        while cheapest_first[0][0] != loads[cheapest_first[0][1]]:
            heapq.heappop(cheapest_first)
        giver, taker = dearest_first[0][1], cheapest_first[0][1]
        gap = loads[giver] - loads[taker]
        helpful = [picture for picture in held[giver] if 0 < picture[0] < gap * (1 - 1e-9)]
        if not helpful:
            break
        picture = min(helpful, key=lambda picture: (abs(picture[0] - gap / 2), picture))
        held[giver].remove(picture)
        held[taker].append(picture)
        cost, rank, number = picture
        holders[rank][number] = taker
        for changed, load in ((giver, loads[giver] - cost), (taker, loads[taker] + cost)):
            loads[changed] = load
            heapq.heappush(dearest_first, (-load, changed))
            heapq.heappush(cheapest_first, (load, changed))
    return holders


def loads_of(costs: Sequence[Sequence[float]], holders: Sequence[Sequence[int]]) -> list[float]:
    """What each rank's tower then costs."""
    loads = [0.0] * len(costs)
    for pictures, places in zip(costs, holders, strict=True):
        for cost, holder in zip(pictures, places, strict=True):
            loads[holder] += cost
    return loads


def max_over_mean(loads: Sequence[float]) -> float:
    """1 where all are even, or nobody has anything."""
    return max(loads) * len(loads) / sum(loads) if any(loads) else 1.0


def rows_in_order(lengths: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """Rows of consecutive pieces when the pieces are put into another order."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    pieces = [np.arange(starts[number], starts[number + 1]) for number in order]
    return np.concatenate([np.zeros(0, np.int64), *pieces])
