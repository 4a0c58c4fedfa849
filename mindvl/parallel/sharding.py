"""FSDP2 over the units of a model: each rank holds a slice of every parameter, and gathers a unit at a time.

A unit is a decoder layer, a block of the tower or the projector; what is in none of them (embeddings, head, last norm)
belongs to the root and is gathered for the whole step. Two kinds of modules inside the units are units of their own:

    experts that are dealt out    lie on the expert mesh, already cut by expert, and are cut further along dimension 1
    routers                       stay in fp32 while the rest is computed in bf16

Gradients are added up over ranks, not averaged: the loss is a sum over tokens, and is divided once (`Phase`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from mindvl.parallel.mesh import Meshes


@dataclass(frozen=True)
class Units:
    """What of a model is gathered together.

    `chains` are modules that run one after the other: blocks of the tower, layers of the language model.
    """

    chains: Sequence[Sequence[nn.Module]]
    alone: Sequence[nn.Module] = ()
    exact: Sequence[nn.Module] = ()
    """Modules inside the units that are computed in fp32 whatever the precision."""


def shard(
    model: nn.Module,
    meshes: Meshes,
    units: Units,
    *,
    dealt: Sequence[nn.Module] = (),
    compute_dtype: torch.dtype | None = None,
    prefetch: bool = True,
) -> None:
    """Cut a model, in place; parameters may be on meta, then `to_empty` makes this rank's slices.

    Args:
        model: the root; every rank must run its forward pass for every pack.
        dealt: modules of experts that `apply_plans` has put on the expert mesh.
        compute_dtype: of gathered parameters; None is that of the slices. Gradients are reduced in fp32.
        prefetch: gather the next unit while one computes.
    """
    lower = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=compute_dtype and torch.float32, cast_forward_inputs=False
    )
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    dense, expert = meshes.for_sharding(meshes.dense), meshes.for_sharding(meshes.expert)
    for module in dealt:
        fully_shard(module, mesh=expert, mp_policy=lower, shard_placement_fn=lambda parameter: Shard(1))
    for module in units.exact if compute_dtype is not None else ():
        fully_shard(module, mesh=dense, mp_policy=exact)
    for module in (*(unit for chain in units.chains for unit in chain), *units.alone):
        fully_shard(module, mesh=dense, mp_policy=lower)
    fully_shard(model, mesh=dense, mp_policy=lower)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # A plain sum; without being forced, a factor of 1 would ask for an operation that only NCCL has.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for chain in units.chains if prefetch else ():
        for before, after in itertools.pairwise(chain):
            before.set_modules_to_forward_prefetch(_gathered(after))
            after.set_modules_to_backward_prefetch(_gathered(before))


def _gathered(unit: nn.Module) -> list[FSDPModule]:
    """A unit and those inside it."""
    return [module for module in unit.modules() if isinstance(module, FSDPModule)]
