"""The mesh: which ranks hold what, and which ranks read the same pack.

Five sizes describe a run. Four of them multiply to the number of ranks, the fifth is folded out of the others:

    replicate   copies of the whole, whose gradients are added up
    shard       ranks that share out parameters, gradients and optimizer state (FSDP2)
    context     ranks that share out the tokens of one pack
    tensor      ranks that share out the heads and channels of one layer
    expert      ranks that share out the experts; taken from shard x context x tensor

Eight ranks with shard 4, tensor 2 and expert 4. Attention is cut as in the second line, experts as in the third:

    rank            0   1   2   3   4   5   6   7
    pack            A   A   B   B   C   C   D   D
    (shard, tensor) 00  01  10  11  20  21  30  31
    (copy, expert)  00  01  02  03  10  11  12  13

Ranks 0 and 1 read pack A once. Rank 0 holds a fourth of one half of the attention, and a half (the copies share it) of
a fourth of the experts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class MeshSizes:
    """Sizes of a mesh; one of those that multiply to the number of ranks may be -1, what the others leave."""

    replicate: int = 1
    shard: int = -1
    expert: int = 1
    context: int = 1
    tensor: int = 1

    def over(self, world_size: int) -> MeshSizes:
        """The sizes with -1 resolved. Raises ValueError where they do not multiply to `world_size`."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, size in given.items():
            if size < 1 and (size != -1 or name == "expert"):
                raise ValueError(f"strategy.{name} is {size}; a size is at least 1" + (", or -1" * (name != "expert")))
        expert = given.pop("expert")
        left = [name for name, size in given.items() if size == -1]
        if len(left) > 1:
            raise ValueError(f"strategy: {' and '.join(left)} are both -1; one size can be what the others leave")
        known = prod(size for size in given.values() if size != -1)
        if left:
            if world_size % known:
                raise ValueError(f"strategy: {_product(given)} does not divide {world_size} ranks")
            given[left[0]] = world_size // known
        elif known != world_size:
            raise ValueError(f"strategy: {_product(given)} is {known}, but there are {world_size} ranks")
        sizes = MeshSizes(**given, expert=expert)
        if sizes.within % expert:
            raise ValueError(
                f"strategy.expert is {expert}, which does not divide shard {sizes.shard} x context {sizes.context} x "
                f"tensor {sizes.tensor} = {sizes.within} ranks"
            )
        return sizes

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.replicate * self.within

    @property
    def within(self) -> int:
        """Ranks of one copy of the whole."""
        return self.shard * self.context * self.tensor

    @property
    def data(self) -> int:
        """Ranks that read different packs."""
        return self.replicate * self.shard

    @property
    def pack(self) -> int:
        """Ranks that read the same pack."""
        return self.context * self.tensor

    @property
    def dense_shard(self) -> int:
        """Ranks over which a parameter outside the experts is cut; its gradient is summed over their tokens."""
        return self.shard * self.context

    @property
    def expert_shard(self) -> int:
        """Ranks that hold the same experts, and cut each of them."""
        return self.within // self.expert

    def data_rank(self, rank: int) -> int:
        """Number of the packs that a rank reads, from 0 to `data` - 1."""
        return rank // self.pack

    def check_model(self, *, heads: int, key_value_heads: int | None, experts: int | None) -> None:
        """Raises ValueError where heads or experts of a language model cannot be shared out evenly.

        `key_value_heads` is None where tensor parallelism leaves attention whole, `experts` None where there are none.
        """
        if self.expert > 1 and (experts is None or experts % self.expert):
            has = "no experts" if experts is None else f"{experts} experts per layer"
            raise ValueError(f"strategy.expert is {self.expert}, but the language model has {has}")
        cut = self.context * (1 if key_value_heads is None else self.tensor)
        if self.context > 1 and heads % cut:
            raise ValueError(
                f"strategy.context is {self.context} and tensor {self.tensor}: {cut} ranks do not divide {heads} "
                "attention heads"
            )
        if self.tensor > 1 and key_value_heads is not None and (heads % self.tensor or key_value_heads % self.tensor):
            raise ValueError(
                f"strategy.tensor is {self.tensor}, which does not divide {heads} attention heads and "
                f"{key_value_heads} key-value heads"
            )


def _product(sizes: dict[str, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size != -1)


@dataclass(frozen=True)
class Meshes:
    """The sizes as process groups, seen by one rank. A group of None means all ranks, or, for `pack`, this rank alone.

    `dense` has the dimensions replicate, shard (context included) and tensor; `expert` replicate, shard and expert.
    They have separate roots: a parameter lies on one of them.
    """

    sizes: MeshSizes
    rank: int
    dense: DeviceMesh
    expert: DeviceMesh
    context: DeviceMesh
    """Ranks that hold the other tokens of this rank's pack, in the order of the tokens."""
    data_group: ProcessGroup | None
    """Ranks that read different packs: sums over packs go over it."""
    token_group: ProcessGroup | None
    """Ranks that hold different tokens: data x context."""
    pack_group: ProcessGroup | None
    """Ranks that read the same pack; its first rank reads for all."""

    @property
    def data_rank(self) -> int:
        return self.sizes.data_rank(self.rank)

    @property
    def is_reader(self) -> bool:
        """Whether this rank reads the packs of its group."""
        return self.rank % self.sizes.pack == 0

    def for_sharding(self, mesh: DeviceMesh) -> DeviceMesh:
        """The part of `dense` or `expert` that FSDP2 cuts over: 1-D, or 2-D with copies."""
        return mesh["replicate", "shard"] if self.sizes.replicate > 1 else mesh["shard"]


def build_meshes(sizes: MeshSizes, device_type: str) -> Meshes:
    """Process groups for resolved sizes; every rank must call it, after `init_process_group`."""
    from torch.distributed.device_mesh import init_device_mesh

    def mesh(**dims: int) -> DeviceMesh:
        return init_device_mesh(device_type, tuple(dims.values()), mesh_dim_names=tuple(dims))

    dense = mesh(replicate=sizes.replicate, shard=sizes.dense_shard, tensor=sizes.tensor)
    expert = mesh(replicate=sizes.replicate, shard=sizes.expert_shard, expert=sizes.expert)
    packs = mesh(data=sizes.data, context=sizes.context, tensor=sizes.tensor)
    data_group = token_group = pack_group = None
    if sizes.pack > 1:
        data_group = packs.get_group("data")
        pack_group = mesh(data=sizes.data, pack=sizes.pack).get_group("pack")
    if sizes.tensor > 1:
        token_group = mesh(token=sizes.data * sizes.context, tensor=sizes.tensor).get_group("token")
    return Meshes(sizes, dist.get_rank(), dense, expert, packs["context"], data_group, token_group, pack_group)
