"""Packs travel from data workers to the training process through memory that both already share.

PyTorch's own way makes new shared memory for every tensor: a file, a mapping and a page fault per 4 kB on both sides,
10 ms for a pack of 4 MB. Here each worker has a ring of slots, mapped before it starts. It writes a pack's tensors into
the next slot and sends a note of where they lie; the training process copies them out (0.4 ms) before it asks the
worker for more.

A worker has at most `prefetch` packs on their way, and the one that is being copied out makes one more: with
`prefetch + 1` slots none is written while it is read. What does not fit into a slot goes PyTorch's way.
"""

from __future__ import annotations

import dataclasses
import mmap
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mindvl.batch import PackedBatch, VisionInputs
from mindvl.data.dataset import PackDataset

_ALIGN_BYTES = 64


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a slot."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Note:
    """What a worker sends: the fields of a pack, with places in one of its slots for tensors."""

    fields: dict[str, Any]


class SlotRing:
    """The slots of all workers; made in the training process, inherited by the workers that it forks."""

    def __init__(self, workers: int, slots: int, slot_bytes: int):
        self.slots, self.slot_bytes = slots, slot_bytes
        # Anonymous memory: it is no file under /dev/shm, which containers keep small. Pages that are never written
        # cost nothing.
        self._memory = np.frombuffer(mmap.mmap(-1, workers * slots * slot_bytes), np.uint8)
        self._next = 0

    def allocate(self, shape: tuple[int, ...], worker: int) -> np.ndarray:
        """Bytes at the beginning of the worker's next slot, which `write` need not copy; elsewhere if too many."""
        size_bytes = int(np.prod(shape, dtype=np.int64))
        start = (worker * self.slots + self._next % self.slots) * self.slot_bytes
        if size_bytes > self.slot_bytes:
            return np.empty(shape, np.uint8)
        return self._memory[start : start + size_bytes].reshape(shape)

    def write(self, pack: PackedBatch, worker: int) -> _Note | PackedBatch:
        """Copy a pack's tensors into the worker's next slot; the pack itself when it does not fit."""
        slot = worker * self.slots + self._next % self.slots
        start, end = slot * self.slot_bytes, (slot + 1) * self.slot_bytes
        used = start

        def put(tensor: Tensor) -> _Place:
            nonlocal used
            array = tensor.numpy()
            offset = array.ctypes.data - self._memory.ctypes.data
            if start <= offset < end and array.nbytes:  # it was made here
                return _Place(offset, array.shape, array.dtype.str)
            place = _Place(used, array.shape, array.dtype.str)
            used += -(-array.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
            if used <= end:
                self._memory[place.offset : place.offset + array.nbytes] = array.reshape(-1).view(np.uint8)
            return place

        if pack.vision is not None and pack.vision.patches.numpy().ctypes.data == self._memory[start:].ctypes.data:
            used += -(-pack.vision.patches.numpy().nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
        noted = _fields(pack, put)
        if used > end:
            return _out_of(self._memory, pack)
        self._next += 1
        return _Note(noted)

    def read(self, note: _Note, *, pin_memory: bool) -> PackedBatch:
        """The pack of a note, with tensors of its own."""

        def take(place: _Place) -> Tensor:
            dtype = np.dtype(place.dtype)
            size_bytes = int(np.prod(place.shape, dtype=np.int64)) * dtype.itemsize
            there = self._memory[place.offset : place.offset + size_bytes].view(dtype).reshape(place.shape)
            own = torch.empty(place.shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=pin_memory)
            own.numpy()[...] = there
            return own

        fields = {name: take(value) if isinstance(value, _Place) else value for name, value in note.fields.items()}
        if fields["vision"] is not None:
            vision = {n: take(value) if isinstance(value, _Place) else value for n, value in fields["vision"].items()}
            fields["vision"] = VisionInputs(**vision)
        return PackedBatch(**fields)


def _out_of(memory: np.ndarray, pack: PackedBatch) -> PackedBatch:
    """A pack whose patches lie in the ring, with patches of its own: it is sent by a thread, and the slot goes on."""
    vision = pack.vision
    if vision is None or not np.may_share_memory(vision.patches.numpy(), memory):
        return pack
    return dataclasses.replace(pack, vision=dataclasses.replace(vision, patches=vision.patches.clone()))


class _RingDataset(Dataset):
    """A dataset of packs as a worker sees it: packs become notes."""

    def __init__(self, packs: Dataset, ring: SlotRing):
        self.packs, self.ring = packs, ring

    def __getitem__(self, rows: Any) -> Any:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        if isinstance(self.packs, PackDataset):
            self.packs.allocate = partial(self.ring.allocate, worker=worker.id)
        return self.ring.write(self.packs[rows], worker.id)


class PackLoader(DataLoader):
    """A DataLoader of packs, one at a time, that come through a ring of slots where processes are forked.

    Args:
        packs: maps rows of a table to a `PackedBatch`.
        slot_bytes: room for one pack; see `slot_bytes_of`.
        pin_memory: hand out tensors in pinned memory, for copies to an accelerator that need not be waited for.
    """

    def __init__(
        self, packs: Dataset, sampler: Iterable[Any], *, slot_bytes: int, pin_memory: bool = False, **settings: Any
    ):
        super().__init__(packs, batch_size=None, sampler=sampler, **settings)
        self._slot_bytes, self._pin = slot_bytes, pin_memory

    def __iter__(self) -> Iterator[PackedBatch]:
        if self.num_workers == 0 or multiprocessing.get_start_method() != "fork":
            yield from (self._pinned(pack) for pack in super().__iter__())
            return
        prefetch = self.prefetch_factor or 2
        ring = SlotRing(self.num_workers, prefetch + 1, self._slot_bytes)
        # Each iterator has its own ring: two of them may be alive at a time.
        through = DataLoader(
            _RingDataset(self.dataset, ring),
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.num_workers,
            prefetch_factor=prefetch,
            worker_init_fn=self.worker_init_fn,
        )
        for item in through:
            yield ring.read(item, pin_memory=self._pin) if isinstance(item, _Note) else self._pinned(item)

    def _pinned(self, pack: PackedBatch) -> PackedBatch:
        return pack.pin_memory() if self._pin else pack


def slot_bytes_of(tokens: int, patches: int, pixels: int) -> int:
    """Room for any pack of so many tokens and patches of `pixels` bytes, with all indexes as int64."""
    per_token = 8 * 6  # ids, positions, supervised index, targets, image index, bounds
    per_patch = pixels + 8 * 4  # positions, window order and its inverse
    return tokens * per_token + patches * per_patch + (1 << 16)


def _fields(value: PackedBatch | VisionInputs, put: Callable[[Tensor], _Place]) -> dict[str, Any]:
    """The fields of a batch by name, those of its pictures in a dictionary of their own."""
    fields: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        held = getattr(value, item.name)
        if isinstance(held, Tensor):
            fields[item.name] = put(held)
        else:
            fields[item.name] = _fields(held, put) if isinstance(held, VisionInputs) else held
    return fields
