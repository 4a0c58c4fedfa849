"""A pack that several ranks share: which of it each of them computes (context parallelism).

Every rank has the whole pack, read once for all of them. Of a pack of 10 tokens, 4 of them visual, rank 1 of 2 has

    tokens      5 to 9, with the positions that they have in their documents, and the bounds of all documents
    supervised  the positions among these, counted from 5
    patches     the second half in window order, whole merge blocks: the third and fourth visual token, 8 patches
    features    of its own visual tokens, wherever they were computed: the projector's output is gathered

Tower and language model take such a share as they take a pack. The bounds know who holds which rows
(`mindvl.ops.exchange`), and that is all that attention has to know.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from mindvl.batch import PackedBatch, VisionInputs
from mindvl.ops.exchange import SplitLengths, split_rows


def check_tower(tower: nn.Module, ranks: int) -> None:
    """Raises ValueError where a tower's patches cannot be shared out over so many ranks."""
    heads = tower.blocks[0].attn.num_heads
    if heads % ranks:
        raise ValueError(f"strategy.context is {ranks}, which does not divide {heads} attention heads of the tower")
    prefixes = getattr(tower, "num_prefix_tokens", 0)
    if prefixes:
        raise ValueError(
            f"strategy.context is {ranks}, but the tower puts {prefixes} tokens before each picture, which belong to "
            "no rank; train it with context 1"
        )


def own_share(batch: PackedBatch, group: dist.ProcessGroup, *, merge: int) -> PackedBatch:
    """What this rank of the group computes of a pack; counts (`num_tokens`, ...) and `cu_seqlens` stay the pack's.

    Raises ValueError for a pack with fewer tokens than ranks.
    """
    ranks = dist.get_world_size(group)
    if len(batch.input_ids) < ranks:
        raise ValueError(f"strategy.context is {ranks}, but a pack holds {len(batch.input_ids)} tokens")
    split = split_rows(len(batch.input_ids), group)
    rows = split.rows
    supervised, visual = own_places(batch.supervised_index, rows), own_places(batch.image_index, rows)
    return replace(
        batch,
        input_ids=batch.input_ids[rows],
        position_ids=batch.position_ids[rows],
        doc_lengths=SplitLengths(batch.doc_lengths, split),
        supervised_index=batch.supervised_index[supervised] - rows.start,
        targets=batch.targets[supervised],
        image_index=batch.image_index[visual] - rows.start,
        vision=None if batch.vision is None else _own_pictures(batch.vision, visual, group, unit=merge**2),
    )


def own_places(index: Int[Tensor, " places"], rows: slice) -> Int[Tensor, " own"]:
    """Which entries of an index of rows point into a slice of them."""
    return ((index >= rows.start) & (index < rows.stop)).nonzero()[:, 0]


def whole_losses(
    own: Float[Tensor, " own"], batch: PackedBatch, group: dist.ProcessGroup
) -> Float[Tensor, " supervised"]:
    """The loss of each supervised position of a pack, from those of this rank's share."""
    losses = own.new_zeros(len(batch.targets))
    losses[own_places(batch.supervised_index, split_rows(len(batch.input_ids), group).rows)] = own
    dist.all_reduce(losses, group=group)
    return losses


def _own_pictures(
    whole: VisionInputs, visual: Int[Tensor, " own"], group: dist.ProcessGroup, *, unit: int
) -> VisionInputs:
    """Own patches lie in window order already; `restore_index` finds own features among those of all ranks."""
    split = split_rows(len(whole.patches), group, unit=unit)
    blocks = split.per(unit).rows
    order = whole.window_index[blocks]

    def own(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, unit))[order].flatten(0, 1)

    return replace(
        whole,
        patches=own(whole.patches),
        position_ids=own(whole.position_ids),
        window_index=torch.arange(len(order), device=order.device),
        restore_index=whole.restore_index[visual],
        image_lengths=SplitLengths(whole.image_lengths, split),
        window_lengths=SplitLengths(whole.window_lengths, split),
    )
