"""The stream: tensors of checkpoints go into a model's parameters, or into the shards of them that this rank owns.

    model = MindVL(config)                               # or built on "meta", sharded, given memory by to_empty()
    fill(model, [WeightSource("Qwen/Qwen2.5-VL-7B-Instruct", "vision"), WeightSource("Qwen/Qwen3-8B", "language")])

Every rank opens the files by itself, works out which rows of a tensor its own shard needs, and copies them block by
block. Besides its shard it holds one block at a time, so its peak memory is the shard and one tensor at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mindvl.model.parts import is_adapter, plain_name
from mindvl.model.weights.accounting import Account, WeightSource, account, tied_pairs
from mindvl.model.weights.checkpoint import Checkpoint
from mindvl.model.weights.names import Piece
from mindvl.model.weights.shards import copy_into, local_part, meet, whole, within

BLOCK_BYTES = 1 << 25
"""Read at once: 32 MiB, or one row where a row is larger."""


def fill(model: nn.Module, sources: Sequence[WeightSource]) -> list[str]:
    """Copy the weights of all sources into a MindVL; returns the names of parameters and buffers that it filled.

    Parameters may be plain tensors or DTensors, on any device but "meta"; values are cast to their dtype. What no
    source covers keeps its values: the projector where the widths of tower and language model differ, and all of a
    part without a source. Rows of the embedding and the output head that the file lacks become the mean of its rows.

    ValueError, before anything is copied, when a source lacks a tensor, holds one too many, or one of another shape.
    """
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)  # the parameters themselves, so ties can be seen
    own = {plain_name(name): tensor for name, tensor in state.items() if not is_adapter(name)}
    on_meta = [name for name, tensor in own.items() if tensor.is_meta]
    if on_meta and sources:
        raise ValueError(f"{len(on_meta)} tensors are on the meta device (first: {on_meta[0]}); call to_empty() first")
    accounts = [account(model, own, source) for source in sources]
    for source, found in zip(sources, accounts, strict=True):
        _check_ties(source, found, own)
    filled: set[int] = set()
    for found in accounts:
        for piece in found.pieces:
            _copy(found.checkpoint, piece, own[piece.name])
            filled.add(id(own[piece.name]))
            if piece.name in found.grown:
                _grow(found.checkpoint, piece.key, own[piece.name], found.grown[piece.name])
    return [name for name, tensor in own.items() if id(tensor) in filled]


def _check_ties(source: WeightSource, found: Account, own: dict[str, Tensor]) -> None:
    """Refuse two different tensors for one parameter: one of them would be lost."""
    for first, second in tied_pairs(own, found.pieces):
        pairs = zip(_blocks(found.checkpoint, first.key), _blocks(found.checkpoint, second.key), strict=True)
        if not all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in pairs):
            raise ValueError(
                f"{source.name}: {first.key} and {second.key} differ, but the configured model ties them; "
                f"set tie_word_embeddings to false"
            )


def _blocks(checkpoint: Checkpoint, key: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """Rows of a tensor, at most `BLOCK_BYTES` at a time, each block with the number of its first row."""
    stored = checkpoint.tensors[key]
    row_bytes = math.prod(stored.shape[1:]) * stored.dtype.itemsize
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    stop = stored.shape[0] if stop is None else stop
    for first in range(start, stop, step):
        yield first, checkpoint.rows(key, first, min(first + step, stop))


def _copy(checkpoint: Checkpoint, piece: Piece, target: Tensor) -> None:
    """The rows of one tensor that this rank's shard of its parameter needs."""
    local, held = local_part(target)
    shape = checkpoint.tensors[piece.key].shape
    if not shape:
        local.copy_(checkpoint.rows(piece.key, 0, 1))
        return
    expert = piece.box[:1] if piece.of_expert else ()  # the parameter has one dimension more than the file
    inner = tuple((start, start + size) for (start, _), size in zip(piece.box[len(expert) :], shape, strict=True))
    common = meet((*expert, *inner), held)
    if common is None:
        return
    rows, *columns = within(common[len(expert) :], inner)
    for start, block in _blocks(checkpoint, piece.key, rows.start, rows.stop):
        first = inner[0][0] + start
        box = (*expert, (first, first + len(block)), *common[len(expert) + 1 :])
        copy_into(local, held, block[(slice(None), *columns)], box)


def _grow(checkpoint: Checkpoint, key: str, target: Tensor, rows: int) -> None:
    """Rows that the file does not have become the mean of those it has, summed in fp64."""
    local, held = local_part(target)
    columns = whole(tuple(target.shape[1:]))
    common = meet(((rows, target.shape[0]), *columns), held)
    if common is None:
        return
    mean = torch.zeros(tuple(target.shape[1:]), dtype=torch.float64)
    for _, block in _blocks(checkpoint, key):
        mean += block.double().sum(dim=0) / rows
    copy_into(local, held, mean[within(common[1:], columns)], common)
