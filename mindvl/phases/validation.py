"""The loss on held-out packs, overall and for each source, so that curves say which skill moves.

Every supervised token has its loss, every document its source. Sums are kept, of losses and of tokens, and divided
once over all packs of all ranks: a mean of packs' means would weigh a token by its neighbours.

    pack of rank 0    ocr  2.0 nats over 4 tokens    text 3.0 over 1
    pack of rank 1    ocr  4.0 nats over 2 tokens
    logged            ocr  6.0 / 6 = 1.0             text 3.0             overall 9.0 / 7 = 1.29
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from mindvl.batch import PackedBatch
from mindvl.device import widest_float
from mindvl.ops.loss import IGNORED

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SourceLoss:
    """Sums of one validation on one rank, on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        """By source, (nats, supervised tokens)."""

    def add(self, batch: PackedBatch, losses: Float[Tensor, " supervised"]) -> None:
        """Count a pack by the loss of each of its supervised positions."""
        starts = batch.cu_seqlens.to(batch.supervised_index.dtype)
        documents = torch.searchsorted(starts, batch.supervised_index, right=True) - 1
        names = sorted({*batch.sources, ""})  # "" is what padding and holes belong to
        numbers = [names.index(source) for source in batch.sources]
        numbers += [names.index("")] * (len(batch.cu_seqlens) - 1 - len(numbers))
        source_of = torch.tensor(numbers, device=losses.device)
        both = torch.stack([losses, (batch.targets != IGNORED).to(losses.dtype)])
        sums = torch.zeros(2, len(names), dtype=widest_float(losses.device), device=losses.device)
        sums.index_add_(1, source_of[documents], both.to(sums.dtype))
        for name, pair in zip(names, sums.unbind(1), strict=True):
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def report(self, group: ProcessGroup | None = None) -> dict[str, float]:
        """What is logged, over all ranks that read different packs; every rank must call it.

        `validation/loss` and `validation/perplexity`, and both with /<source> for sources that have supervised tokens.
        Empty without packs.
        """
        own = {name: (float(pair[0]), float(pair[1])) for name, pair in self._sums.items()}
        ranks = [own]
        if dist.is_available() and dist.is_initialized():
            ranks = [{} for _ in range(dist.get_world_size(group))]
            dist.all_gather_object(ranks, own, group=group)
        names = sorted({name for rank in ranks for name in rank})
        sums = {name: [sum(rank[name][at] for rank in ranks if name in rank) for at in (0, 1)] for name in names}
        logged = {f"/{name}": nats / tokens for name, (nats, tokens) in sums.items() if name and tokens}
        if sums:
            nats, tokens = (sum(pair[at] for pair in sums.values()) for at in (0, 1))
            logged = {"": nats / max(1.0, tokens), **logged}
        return {
            f"validation/{kind}{name}": value
            for name, loss in logged.items()
            for kind, value in (("loss", loss), ("perplexity", math.exp(min(loss, 700.0))))
        }
