"""The mean of one tensor over several checkpoints, block by block, and the question whether they have a mean at all.

A block is a quarter of a million elements: 1 MB of fp32 sum, beside one block per checkpoint, all in a core's cache. So
a tensor of 2.5 GB needs no more memory than one of 25 MB. A mean is summed in fp32 (fp64 for fp64 weights) and rounded
once, into the dtype of the sources:

    bf16 256, 1, 1, 2   mean 65     (a running sum in bf16 ends at 64.5)
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .averaging_format import TensorFacts
from .averaging_reading import Block, BlockReader, Checkpoint, row_elements

BLOCK_ELEMENTS = 1 << 18
AVERAGED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that have a mean; integers, booleans and complex numbers must agree."""


@dataclass(frozen=True)
class Shares:
    """The mean is sum(scale * tensor) / divisor. Equal weights are summed plainly and divided once."""

    scales: tuple[float, ...]
    divisor: float


@dataclass(frozen=True)
class TensorSums:
    """What tells the bytes of a mean, and of its sources, from others.

    `crc` is the CRC-32 of the mean, for its record; `block_sums` are the word sums of its blocks of `block` elements,
    by which it is read again from the disk. Then the word sum of each source, and CRC-32 of those that came with one.
    """

    crc: int
    block: int
    block_sums: array[int]
    word_sums: tuple[int, ...]
    source_crcs: tuple[int | None, ...]


def shares_of(weights: Sequence[float] | None, count: int) -> Shares:
    """Weights as shares of their sum; ValueError when they are not `count` finite, non-negative, positive in sum."""
    if weights is None or (len(set(weights)) == 1 and len(weights) == count and 0 < weights[0] < math.inf):
        return Shares((1.0,) * count, float(count))
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} checkpoints")
    wrong = [weight for weight in weights if not 0 <= weight < math.inf]
    if wrong:
        raise ValueError(f"weight {wrong[0]}: a weight is a finite number that is not negative")
    if sum(weights) <= 0:
        raise ValueError(f"the weights add up to {sum(weights)}, they must be positive in sum")
    return Shares(tuple(weight / sum(weights) for weight in weights), 1.0)


def check_alike(first: Checkpoint, other: Checkpoint, *, any_float: bool = False) -> None:
    """ValueError, naming both checkpoints and the first keys that differ, unless `other` can be added to `first`.

    With `any_float`, weights of different floating dtypes are alike.
    """
    if first.tensors.keys() != other.tensors.keys():
        _refuse_ties(first, other)
        raise ValueError(different_keys(other.name, set(other.tensors), first.name, set(first.tensors)))
    for key, facts in other.tensors.items():
        wanted = first.tensors[key]
        both_float = any_float and facts.dtype in AVERAGED and wanted.dtype in AVERAGED
        if facts.shape != wanted.shape or (facts.dtype != wanted.dtype and not both_float):
            hint = "; `dtype` averages both in one" if facts.shape == wanted.shape else ""
            raise ValueError(f"{other.name}: {key} is {facts}, in {first.name} {wanted}{hint}")
    for name in first.tied.keys() & other.tied.keys():
        if first.tied[name] != other.tied[name]:
            raise ValueError(
                f"{other.name}: {name} is tied to {other.tied[name]}, in {first.name} to {first.tied[name]}"
            )


def check_averageable(checkpoint: Checkpoint) -> None:
    """ValueError for weights of less than 16 bits: they are codes that stand for nothing without their scales."""
    for key, facts in checkpoint.tensors.items():
        if facts.dtype.is_floating_point and facts.dtype not in AVERAGED:
            raise ValueError(f"{checkpoint.name}: {key} is {facts.dtype}; quantised weights have no mean")


def different_keys(name: str, keys: set[str], other: str, other_keys: set[str]) -> str:
    """The sentence about two checkpoints whose keys differ."""
    only_here, only_there = sorted(keys - other_keys)[:3], sorted(other_keys - keys)[:3]
    return f"{name} and {other} hold different keys: only here {only_here}, only there {only_there}"


def mean_of_tensor(
    checkpoints: Sequence[Checkpoint],
    key: str,
    shares: Shares,
    dtype: torch.dtype,
    put: Callable[[int, memoryview], object],
    *,
    newest_integers: bool = False,
) -> TensorSums:
    """Hand the mean's bytes to `put` block by block, with the offset of each; returns the sums of all bytes.

    With `newest_integers` integers are the last checkpoint's: counters go on within one run. ValueError naming
    checkpoint and tensor for a value that is not finite, integers that disagree, or a mean that `dtype` cannot hold.
    """
    readers = [BlockReader(checkpoint, key) for checkpoint in checkpoints]
    num_elements = checkpoints[0].tensors[key].num_elements
    block = block_elements(readers)
    is_averaged = checkpoints[0].tensors[key].dtype in AVERAGED
    wide = any(checkpoint.tensors[key].dtype == torch.float64 for checkpoint in checkpoints)
    total = (
        torch.empty(min(block, num_elements), dtype=torch.float64 if wide else torch.float32) if is_averaged else None
    )
    narrows = dtype == torch.float16 and any(c.tensors[key].dtype != torch.float16 for c in checkpoints)
    narrows = narrows or (wide and dtype != torch.float64)
    held = bytearray(min(block, num_elements) * dtype.itemsize)
    stored = [key in checkpoint.checksums for checkpoint in checkpoints]
    mean_crc, crcs, words = 0, [0] * len(readers), [0] * len(readers)
    block_sums = array("Q")
    out: Block | None = None
    for start in range(0, num_elements, block):
        stop = min(start + block, num_elements)
        if out is None or stop - start < block:  # made once: each call waits for the other threads
            out = Block(memoryview(held)[: (stop - start) * dtype.itemsize], dtype)
            total = total[: stop - start] if total is not None else None
        for number, reader in enumerate(readers):
            its = reader.read(start, stop)
            words[number] += its.word_sum()
            if stored[number]:
                crcs[number] = zlib.crc32(its.raw, crcs[number])
            if total is None:
                if number == 0 or newest_integers:
                    out.values.copy_(its.values)
                elif not torch.equal(its.values, out.values):
                    raise ValueError(f"{reader.name}: integer buffer {key} differs from the one in {readers[0].name}")
            elif number == 0:
                total.copy_(its.values)
                if shares.scales[0] != 1.0:
                    total.mul_(shares.scales[0])
            else:
                total.add_(its.values, alpha=shares.scales[number])
        if total is not None:
            total.div_(shares.divisor)
            if not is_finite(total):
                _blame(readers, start, stop)
            out.values.copy_(total)
            if narrows and not is_finite(out.values):
                raise ValueError(f"the mean of {key} reaches {total.abs().max().item():.3g}, which {dtype} cannot hold")
        mean_crc = zlib.crc32(out.raw, mean_crc)
        block_sums.append(out.word_sum())
        put(start * dtype.itemsize, out.raw)
    source_crcs = tuple(crc if has else None for crc, has in zip(crcs, stored, strict=True))
    return TensorSums(mean_crc, block, block_sums, tuple(words), source_crcs)


def block_elements(readers: Sequence[BlockReader]) -> int:
    """Elements of a block: `BLOCK_ELEMENTS`, but eight whole rows where a tensor lies in several pieces."""
    facts = readers[0].facts
    if any(reader.is_strided for reader in readers):
        return max(1, facts.num_elements)
    if all(len(reader.pieces) == 1 for reader in readers):
        return BLOCK_ELEMENTS
    rows = 8 * max(1, row_elements(facts.shape))  # eight rows begin and end between two 64-bit words
    return max(rows, BLOCK_ELEMENTS // rows * rows)


def is_finite(values: Tensor) -> bool:
    """Whether all are numbers. Their sum tells at once, unless it overflows; then each is looked at."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def facts_of_mean(facts: TensorFacts, dtype: torch.dtype | None) -> TensorFacts:
    """Shape and dtype of a tensor's mean: `dtype` for weights, its own for everything else."""
    return TensorFacts(facts.shape, dtype) if dtype is not None and facts.dtype in AVERAGED else facts


def _blame(readers: Sequence[BlockReader], start: int, stop: int) -> None:
    for reader in readers:
        if not torch.isfinite(reader.read(start, stop).values).all():
            raise ValueError(f"{reader.name}: {reader.key} holds a value that is not finite")
    raise ValueError(f"the mean of {readers[0].key} is not finite, though every checkpoint's values are")


def _refuse_ties(first: Checkpoint, other: Checkpoint) -> None:
    for tied, loose in ((first, other), (other, first)):
        for name, owner in tied.tied.items():
            if name in loose.tensors and name not in tied.tensors:
                raise ValueError(f"{loose.name}: {name} has weights of its own, in {tied.name} it is tied to {owner}")
