"""Ranks that share a pack: each holds some of its rows, and for attention all rows of some heads.

All layers but attention work row by row, so they need nothing of each other. Attention needs all rows of a document,
but no other head. So before it ranks send heads away and get rows, and after it the reverse: two exchanges a layer, of
which each moves a rank's own share of the pack however many ranks there are (Ulysses, arXiv 2309.14509). Six rows of
two heads over two ranks:

    rank 0    rows 0 1 2 of heads a b            rows 0 to 5 of head a
    rank 1    rows 3 4 5 of heads a b    <-->    rows 0 to 5 of head b

Queries, keys and values travel together. Key-value heads that are fewer than the ranks travel to each that needs them.
Shares may be uneven, and empty. All functions here have gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Who holds which rows: `sizes[0]` of them rank 0 of the group, the next `sizes[1]` rank 1, and so on."""

    sizes: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup

    @property
    def rows(self) -> slice:
        """Those of this rank."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    def per(self, unit: int) -> Split:
        """The same split of units of so many rows; it must not cut one."""
        return Split(tuple(size // unit for size in self.sizes), self.rank, self.group)


class SplitLengths(tuple):
    """Lengths of the segments of a whole pack, of which this rank holds the rows of `split` alone.

    They stand where lengths do; `mindvl.ops.attention.packed_attention` sees the difference.
    """

    split: Split

    def __new__(cls, lengths: Iterable[int], split: Split):
        made = super().__new__(cls, lengths)
        made.split = split
        return made


def split_rows(total: int, group: dist.ProcessGroup, *, unit: int = 1) -> Split:
    """Shares of `total` rows that differ by one unit at most; a unit of consecutive rows stays together."""
    ranks, units = dist.get_world_size(group), total // unit
    bounds = [units * rank // ranks * unit for rank in range(ranks + 1)]
    return Split(tuple(stop - start for start, stop in pairwise(bounds)), dist.get_rank(group), group)


def split_of(lengths: Sequence[int]) -> Split | None:
    """The split that lengths speak of; None where this rank holds all rows."""
    return lengths.split if isinstance(lengths, SplitLengths) else None


def heads_for_rows(
    query: Float[Tensor, "own heads head_dim"],
    key: Float[Tensor, "own kv_heads head_dim"],
    value: Float[Tensor, "own kv_heads value_dim"],
    split: Split,
) -> list[Tensor]:
    """All rows of the heads that this rank attends with. ValueError where the heads do not divide over the ranks."""
    ranks, (own, heads, _) = len(split.sizes), query.shape
    if heads % ranks:
        raise ValueError(
            f"{ranks} ranks share the tokens of a pack (strategy.context), and do not divide {heads} attention heads"
        )
    copies = math.lcm(key.shape[1], ranks) // key.shape[1]
    states = [query, *(part.repeat_interleave(copies, dim=1) if copies > 1 else part for part in (key, value))]
    shapes = [(part.shape[1] // ranks, part.shape[2]) for part in states]
    columns = [num_heads * head_dim for num_heads, head_dim in shapes]
    by_rank = torch.cat(
        [part.reshape(own, ranks, width) for part, width in zip(states, columns, strict=True)], dim=2
    ).transpose(0, 1)
    received = exchange_rows(by_rank.reshape(ranks * own, sum(columns)), [own] * ranks, split.sizes, split.group)
    parts = received.split(columns, dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def rows_for_heads(attended: Float[Tensor, "rows own_heads head_dim"], split: Split) -> Float[Tensor, "own heads dim"]:
    """The way back: this rank's rows of all heads."""
    ranks, own = len(split.sizes), split.sizes[split.rank]
    _, heads, head_dim = attended.shape
    received = exchange_rows(attended.flatten(1), split.sizes, [own] * ranks, split.group)
    return received.view(ranks, own, heads * head_dim).transpose(0, 1).reshape(own, ranks * heads, head_dim)


def gather_rows(own: Float[Tensor, "own dim"], split: Split) -> Float[Tensor, "rows dim"]:
    """The rows of all ranks; the gradient of a row is the sum over the ranks that used it."""
    ranks = len(split.sizes)
    return exchange_rows(own.repeat(ranks, 1), [len(own)] * ranks, split.sizes, split.group)


def exchange_rows(rows: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Send the first `sent[0]` rows to rank 0 of the group, and so on; what comes in, in the order of the ranks."""
    from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor

    return wait_tensor(all_to_all_single_autograd(rows.contiguous(), list(received), list(sent), group))


def sum_over_ranks(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of what all ranks have, on each of them; backward, each passes the gradient on to its own part.

    Where ranks add up their gradients afterwards, every part has then been counted once.
    """
    return _SumOverRanks.apply(own, group)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own, group):
        total = own.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad_total):
        return grad_total, None
