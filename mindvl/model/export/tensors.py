"""What an exported folder holds, worked out from names and shapes before a byte is read.

Files on the hub hold one matrix per expert, a training checkpoint holds them stacked; either may be the source. Both
come down to the same table, in which a tensor to be written is a run of elements of one that is there. Of 4 stacked
experts (4, 2 x 24, 32), that is 1536 elements a step:

    experts.2.gate_proj.weight (24, 32)    experts.gate_up_proj, elements 3072 to 3839
    experts.2.up_proj.weight   (24, 32)    the same, elements 3840 to 4607

So a shard of any size is written with one block in memory, also where a layer's stacked experts take 15 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mindvl.model.weights.names import names_in_files, place

BLOCK_ELEMENTS = 1 << 22
"""Read at once: 16 MiB of fp32."""


@runtime_checkable
class Facts(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...


@runtime_checkable
class Weights(Protocol):
    """Named tensors of a checkpoint, of which any run of elements can be read."""

    @property
    def name(self) -> str:
        """Where they come from, for messages."""
        ...

    @property
    def tensors(self) -> Mapping[str, Facts]: ...

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of the flattened tensor; the next call may overwrite them."""
        ...


@dataclass(frozen=True)
class Run:
    """Consecutive elements of a source tensor, from `start` on, in a shape of their own."""

    source: str
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize


@dataclass(frozen=True)
class Given:
    """A tensor that the source does not hold because the stock class adds it: a layer that changes nothing."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def num_bytes(self) -> int:
        return self.value.nbytes


Written = Run | Given


def runs_in_files(tensors: Mapping[str, Facts]) -> dict[str, Run]:
    """The tensors of a checkpoint as files on the hub lay them out: stacked experts become one matrix each."""
    runs: dict[str, Run] = {}
    for source, facts in tensors.items():
        shape = tuple(facts.shape)
        for name in names_in_files(source, shape):
            piece = place(name, name, {source: shape})
            if piece is None:  # a tensor whose name only looks like stacked experts
                runs[source] = Run(source, 0, shape, facts.dtype)
                continue
            size = [stop - first for first, stop in piece.box]
            # Boxes of experts span whole rows, so their elements lie in one run.
            start = 0
            for (first, _), length in zip(piece.box, shape, strict=True):
                start = start * length + first
            kept = size if name == source else size[1:]
            runs[name] = Run(source, start, tuple(kept), facts.dtype)
    return runs


def runs_of_model(weights: Weights, own: Mapping[str, Facts], tied: Mapping[str, str]) -> dict[str, Run]:
    """What is to be written of a checkpoint of the model whose state is `own`, in the model's order.

    `tied` maps second names of shared tensors to the first; only the first is written. ValueError listing the first few
    names that are missing, unexpected or of another shape, and when tensors that shall be one differ.
    """
    found = runs_in_files(weights.tensors)
    wanted = runs_in_files(own)
    missing = [name for name in wanted if name not in found and name not in tied]
    unexpected = [name for name in found if name not in wanted]
    if missing or unexpected:
        raise ValueError(
            f"{weights.name} does not hold the model of its config: {len(missing)} keys missing "
            f"(first: {missing[:3]}), {len(unexpected)} unexpected (first: {unexpected[:3]})"
        )
    for name, run in found.items():
        if run.shape != wanted[name].shape:
            raise ValueError(
                f"{weights.name}: {name} has shape {run.shape}, the model of its config {wanted[name].shape}"
            )
    for second, first in tied.items():
        if second in found and found[second].source != found[first].source:
            _check_equal(weights, first, second)
    return {name: found[name] for name in wanted if name not in tied}


def _check_equal(weights: Weights, first: str, second: str) -> None:
    for start, stop in blocks(math.prod(weights.tensors[first].shape)):
        one = weights.read(first, start, stop).clone()
        if not torch.equal(one, weights.read(second, start, stop)):
            raise ValueError(
                f"{weights.name}: the config ties {second} to {first}, but they differ within elements {start} to "
                f"{stop}"
            )


def blocks(num_elements: int) -> Iterator[tuple[int, int]]:
    """Bounds of the pieces that a tensor is read in."""
    for start in range(0, num_elements, BLOCK_ELEMENTS):
        yield start, min(start + BLOCK_ELEMENTS, num_elements)
