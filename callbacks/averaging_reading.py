"""A checkpoint as a table of where its tensors' bytes lie, and a reader that fetches a block of one of them.

Every kind of checkpoint comes down to the same thing, pieces of files:

    model.safetensors     w = bytes 4096 to 8192
    last.ckpt             w = bytes 1152 to 5248
    a sharded directory   w = rows 0 to 511 in __0_0.distcp from byte 1640, rows 512 to 1023 in __1_0.distcp from 1640

Files are read with `pread` into one buffer that is used again and again: a memory-mapped file would count as memory of
the process, three checkpoints of 2 GB as 6 GB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .averaging_format import TensorFacts


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, row-major from `start_bytes` of a file; with `strides` (in elements) it lies otherwise."""

    path: Path
    start_bytes: int
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds and where: no value is read before it is asked for.

    `tied` maps a name to the name in `tensors` whose memory it shares. `checksums` are CRC-32 of the tensors'
    row-major bytes where the checkpoint was written with them. `folder` holds the config and tokenizer, if any.
    """

    name: str
    tensors: Mapping[str, TensorFacts]
    locate: Callable[[str], tuple[Piece, ...]]
    files: tuple[Path, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None


def row_elements(shape: tuple[int, ...]) -> int:
    """Elements of one slice along the first axis that is longer than 1: pieces are cut from files by whole rows."""
    return math.prod(_without_leading_ones(shape)[1:])


class Block:
    """A run of a tensor's elements: as values, as bytes, as 64-bit words, all in one buffer."""

    def __init__(self, raw: memoryview, dtype: torch.dtype):
        whole = len(raw) // 8 * 8
        self.raw = raw
        self.values = _view(raw, dtype)
        self._words, self._rest = _view(raw[:whole], torch.int64), raw[whole:]

    def word_sum(self) -> int:
        """Sum of little-endian 64-bit words modulo 2 ** 64: ten times as fast as a CRC-32, and blind to their order."""
        return (int(self._words.sum()) + int.from_bytes(self._rest, "little")) % 2**64


class BlockReader:
    """Reads blocks of one tensor of a checkpoint; the next block overwrites the last."""

    def __init__(self, checkpoint: Checkpoint, key: str):
        self.name, self.key = checkpoint.name, key
        self.facts, self.pieces = checkpoint.tensors[key], checkpoint.locate(key)
        held = sum(math.prod(piece.shape) for piece in self.pieces)
        if held != self.facts.num_elements:
            raise ValueError(f"{self.name}: the pieces of {key} hold {held} elements, not {self.facts.num_elements}")
        self._buffer = bytearray()
        self._block: Block | None = None
        self._handle: tuple[Path, int] | None = None

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)  # missing when the constructor has raised
        if handle is not None:
            os.close(handle[1])

    @property
    def is_strided(self) -> bool:
        """Whether the tensor has to be read whole."""
        return any(piece.strides is not None for piece in self.pieces)

    def read(self, start: int, stop: int) -> Block:
        """Elements `start` to `stop` of the flattened tensor."""
        size, dtype = self.facts.dtype.itemsize, self.facts.dtype
        if start == stop:
            return Block(memoryview(b""), dtype)
        if len(self.pieces) == 1 and not self.is_strided:
            if self._block is None or len(self._block.raw) != (stop - start) * size:
                self._block = Block(self._room((stop - start) * size), dtype)
            self._fetch(self.pieces[0], start, self._block.raw)
            return self._block
        row = row_elements(self.facts.shape)
        first, last = start // row, -(-stop // row)
        view = self._room((last - first) * row * size)
        rows = _view(view, dtype)
        self._gather(rows.view(-1, *_without_leading_ones(self.facts.shape)[1:]), first, last)
        return Block(view[(start - first * row) * size : (stop - first * row) * size], dtype)

    def _gather(self, rows: Tensor, first: int, last: int) -> None:
        """Fill rows `first` to `last` of the tensor from all pieces that have a share in them."""
        axes = len(self.facts.shape) - len(_without_leading_ones(self.facts.shape))
        for piece in self.pieces:
            shape, offsets = piece.shape[axes:] or (1,), piece.offsets[axes:] or (0,)
            low, high = max(first, offsets[0]), min(last, offsets[0] + shape[0])
            if low >= high or not math.prod(shape):
                continue
            inner = [slice(offset, offset + length) for offset, length in zip(offsets[1:], shape[1:], strict=True)]
            values = self._rows_of(piece, shape, low - offsets[0], high - offsets[0])
            rows[(slice(low - first, high - first), *inner)] = values

    def _rows_of(self, piece: Piece, shape: tuple[int, ...], low: int, high: int) -> Tensor:
        row, size = math.prod(shape[1:]), self.facts.dtype.itemsize
        if piece.strides is None:
            held = bytearray((high - low) * row * size)
            self._fetch(piece, low * row, memoryview(held))
            return torch.frombuffer(held, dtype=self.facts.dtype).view(-1, *shape[1:])
        reach = sum((length - 1) * stride for length, stride in zip(piece.shape, piece.strides, strict=True))
        held = bytearray((1 + reach) * size)
        self._fetch(piece, 0, memoryview(held))
        whole = torch.frombuffer(held, dtype=self.facts.dtype).as_strided(piece.shape, piece.strides)
        return whole.reshape(shape)[low:high]

    def _fetch(self, piece: Piece, start: int, view: memoryview) -> None:
        if self._handle is None or self._handle[0] != piece.path:
            if self._handle is not None:
                os.close(self._handle[1])
                self._handle = None
            self._handle = piece.path, os.open(piece.path, os.O_RDONLY)
        try:
            read_exactly(self._handle[1], piece.start_bytes + start * self.facts.dtype.itemsize, view)
        except EOFError as error:
            raise ValueError(f"{piece.path}: {self.key} is cut off, {error}") from error

    def _room(self, num_bytes: int) -> memoryview:
        if len(self._buffer) < num_bytes:
            self._buffer = bytearray(num_bytes)
        return memoryview(self._buffer)[:num_bytes]


def read_exactly(handle: int, start_bytes: int, view: memoryview) -> None:
    """Fill `view` from a place in an open file; EOFError with both positions when the file ends before that."""
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], start_bytes + done)
        if not count:
            raise EOFError(f"the file ends at byte {start_bytes + done}, {start_bytes + len(view)} are needed")
        done += count


def _view(raw: memoryview, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(raw, dtype=dtype) if len(raw) else torch.empty(0, dtype=dtype)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((axis for axis, length in enumerate(shape) if length != 1), len(shape))
    return shape[first:] or (1,)
