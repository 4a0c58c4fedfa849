"""A world of ranks that is not there, so that one process can cut a model as any of a thousand would.

The process group is torch's fake one: collectives return at once, with whatever memory holds. Meshes, placements and
slices come out as they would on that rank, and tensors on meta or fake ones never exist:

    with pretend_world(1024, rank=3):
        meshes = build_meshes(MeshSizes(expert=64).over(1024), "cpu")
        meshes.expert.get_local_rank("expert")      # 3
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch.distributed as dist

if TYPE_CHECKING:
    from mindvl.parallel.strategy import MindVLStrategy


@contextmanager
def pretend_world(ranks: int, *, rank: int = 0) -> Iterator[None]:
    """Be one rank of many. Raises ValueError where this process belongs to a real world, or there is no such rank."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ValueError("this process is one of a group already; a world is pretended in a process of its own")
    if not 0 <= rank < ranks:
        raise ValueError(f"there is no rank {rank} among {ranks} ranks")
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def join_pretended(strategy: MindVLStrategy) -> None:
    """Give a strategy its sizes and meshes in a pretended world, in place of `setup_environment`.

    Raises ValueError where its sizes do not multiply to the number of ranks.
    """
    from mindvl.parallel.mesh import build_meshes

    strategy.sizes = strategy.sizes.over(dist.get_world_size())
    strategy.meshes = build_meshes(strategy.sizes, "cpu")


@contextmanager
def even_exchanges(rows: int) -> Iterator[None]:
    """Let fake tensors answer how many rows each rank sends: `rows` shared out evenly, as balanced experts would.

    What travels between the ranks of an expert group is read from a tensor of counts, two rows of them (sent and
    received), which a fake tensor does not have.
    """
    from torch._subclasses.fake_tensor import FakeTensor

    stock = FakeTensor.tolist

    def tolist(tensor: Any) -> Any:
        if tensor.dim() != 2 or tensor.shape[0] != 2:
            return stock(tensor)
        ranks = tensor.shape[1]
        shares = [rows // ranks + (number < rows % ranks) for number in range(ranks)]
        return [shares, shares]

    with mock.patch.object(FakeTensor, "tolist", tolist):
        yield
