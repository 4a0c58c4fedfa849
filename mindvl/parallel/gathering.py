"""What FSDP2 gathers of a sharded model: the memory it takes for a while, and the bytes that it sends.

A group is what is gathered together: the parameters of an FSDP2 module without those of the ones inside it. A rank
holds a slice of each. Of a layer with 400 M parameters over 16 ranks in bf16-mixed:

    slice        25 M in fp32              100 MB    always
    gathered     400 M in bf16             800 MB    forward, again in backward, and while the layer before computes
    gradient     400 M in bf16             800 MB    backward
    reduction    400 M in fp32           1,600 MB    after it, until the next layer's begins
    sent         15/16 of 800 MB, twice, and 15/16 of 1,600 MB
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh


@dataclass
class Gathered:
    """Bytes of whole parameters on one rank, by owner."""

    whole: Counter[str] = field(default_factory=Counter)
    gradient: Counter[str] = field(default_factory=Counter)
    reduction: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Gathered) -> Gathered:
        return Gathered(self.whole + other.whole, self.gradient + other.gradient, self.reduction + other.reduction)


@dataclass(frozen=True)
class Slices:
    """What a rank holds of one group of parameters, and what a step does to it."""

    gathered: Gathered
    shards: int
    shard_span: int
    copies: int
    copy_span: int

    def sent(self, *, again: bool) -> Counter[tuple[str, int, int]]:
        """Bytes that a rank sends for one pack, by collective, ranks and their span; `again` in the backward pass."""
        others = (self.shards - 1) / self.shards
        shard, copy = (self.shards, self.shard_span), (self.copies, self.copy_span)
        reduced = self.gathered.reduction.total()
        return Counter(
            {
                ("all-gather of parameters", *shard): int(others * self.gathered.whole.total()) * (2 if again else 1),
                ("reduce-scatter of gradients", *shard): int(others * reduced),
                ("all-reduce of gradients", *copy): int(2 * (self.copies - 1) / self.copies * reduced / self.shards),
            }
        )


def slices_of(
    module: nn.Module,
    *,
    owner: Callable[[nn.Parameter], str],
    compute_dtype: torch.dtype | None,
    exact: Collection[nn.Module],
) -> list[Slices]:
    """The groups of an FSDP2 module and of all that are inside it and belong to no other in between.

    Args:
        owner: whom a parameter's bytes are counted for.
        compute_dtype: of gathered parameters; None is that of the slices.
        exact: modules whose parameters are gathered as they are.
    """
    from torch.distributed.fsdp import FSDPModule

    inner = [child for child in module.modules() if isinstance(child, FSDPModule) and child is not module]
    taken = {id(parameter) for child in inner for parameter in child.parameters()}
    own = [parameter for parameter in module.parameters() if id(parameter) not in taken]
    return _slices(own, owner, None if module in exact else compute_dtype)


def _slices(
    parameters: Sequence[nn.Parameter], owner: Callable[[nn.Parameter], str], compute_dtype: torch.dtype | None
) -> list[Slices]:
    if not parameters:
        return []
    gathered = Gathered()
    mesh = parameters[0].device_mesh
    names = mesh.mesh_dim_names
    shards = mesh.size(names.index("shard"))
    for parameter in parameters:
        elements = parameter.to_local().numel() * shards  # the first rank's slices are the largest
        dtype = compute_dtype or parameter.dtype
        name = owner(parameter)
        gathered.whole[name] += elements * dtype.itemsize
        if parameter.requires_grad:
            gathered.gradient[name] += elements * dtype.itemsize
            gathered.reduction[name] += elements * (torch.float32 if compute_dtype else dtype).itemsize
    copies = mesh.size(names.index("replicate")) if "replicate" in names else 1
    copy_span = _span(mesh, "replicate") if copies > 1 else 1
    return [Slices(gathered, shards, _span(mesh, "shard"), copies, copy_span)]


def _span(mesh: DeviceMesh, name: str) -> int:
    """From the first to the last rank of a group along a dimension, both counted; all of its groups are alike."""
    dim = (mesh.mesh_dim_names or ()).index(name)
    ranks = mesh.mesh.movedim(dim, -1).reshape(-1, mesh.size(dim))[0]
    return int(ranks.max() - ranks.min()) + 1
