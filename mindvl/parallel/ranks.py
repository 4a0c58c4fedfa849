"""What a training step has to know of its ranks, under this project's strategy or one of Lightning's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy
    from torch.distributed import ProcessGroup


class Ranks(NamedTuple):
    """How gradients come out of a backward pass, and over which ranks to sum what is counted."""

    averaged_over: int
    """Gradients are the sum over ranks divided by this number."""
    data_group: ProcessGroup | None = None
    """Ranks that read different packs, for sums over packs; None is all ranks."""
    token_group: ProcessGroup | None = None
    """Ranks that hold different tokens, for sums over the tokens of layers; None is all ranks."""


def ranks_of(strategy: Strategy | None) -> Ranks:
    """Lightning's strategies average over all ranks. `MindVLStrategy` adds up, and ranks may share a pack."""
    meshes = getattr(strategy, "meshes", None)
    if meshes is None:
        return Ranks(averaged_over=getattr(strategy, "world_size", 1))
    return Ranks(1, meshes.data_group, meshes.token_group)
