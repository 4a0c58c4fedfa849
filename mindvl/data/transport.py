"""Packs travel from data workers to the training process through memory that both already share.

PyTorch's own way makes new shared memory for every tensor: a file, a mapping and a page fault per 4 kB on both sides,
5 ms for a pack of 4 MB. Here each worker has a few slots, mapped before it starts. It writes a pack into a free one and
sends a note of where the tensors lie; nothing is copied again. The slot is free when the last of those tensors is gone.

    worker            free -> writes patches, ids, ... -> busy
    training process                                     tensors on the slot -> the step -> gone -> free

Whoever keeps packs keeps slots busy; a worker that finds none free, or a pack that does not fit, goes PyTorch's way.
"""

from __future__ import annotations

import dataclasses
import mmap
import multiprocessing
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mindvl.batch import PackedBatch, VisionInputs
from mindvl.data.dataset import PackDataset, empty_patches

_ALIGN_BYTES = 64

SPARE_SLOTS = 3
"""Slots of a worker beyond those on their way: for the pack of the running step, and what accumulates beside it."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a slot."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Note:
    """What a worker sends: the fields of a pack, with places in one of its slots for tensors."""

    slot: int
    fields: dict[str, Any]


class Slots:
    """The slots of all workers; made in the training process, inherited by the workers that it forks."""

    def __init__(self, workers: int, slots: int, slot_bytes: int):
        self.slots, self.slot_bytes = slots, -(-slot_bytes // _ALIGN_BYTES) * _ALIGN_BYTES
        # Anonymous memory: it is no file under /dev/shm, which containers keep small. Pages that are never written
        # cost nothing.
        count = workers * slots
        memory = np.frombuffer(mmap.mmap(-1, count * (self.slot_bytes + 1)), np.uint8)
        self._memory, self._busy = memory[: count * self.slot_bytes], memory[count * self.slot_bytes :]

    def take(self, worker: int) -> int | None:
        """A free slot of the worker, from now on busy; None when all are."""
        for slot in range(worker * self.slots, (worker + 1) * self.slots):
            if not self._busy[slot]:
                self._busy[slot] = 1
                return slot
        return None

    def free(self, slot: int) -> None:
        self._busy[slot] = 0

    def allocate(self, shape: tuple[int, ...], *, slot: int) -> np.ndarray:
        """Bytes at the beginning of a slot, which `write` need not copy; elsewhere if they are too many."""
        size_bytes = int(np.prod(shape, dtype=np.int64))
        if size_bytes > self.slot_bytes:
            return np.empty(shape, np.uint8)
        start = slot * self.slot_bytes
        return self._memory[start : start + size_bytes].reshape(shape)

    def write(self, pack: PackedBatch, slot: int) -> _Note | None:
        """Put a pack's tensors into a slot, but for those that were made there; None when they do not fit."""
        start, end = slot * self.slot_bytes, (slot + 1) * self.slot_bytes
        arrays = list(_arrays(pack))
        first = self._memory.ctypes.data
        here = [start <= array.ctypes.data - first < end and array.nbytes > 0 for array in arrays]
        used = max(
            [a.ctypes.data - first + a.nbytes for a, inside in zip(arrays, here, strict=True) if inside] + [start]
        )
        places = []
        for array, inside in zip(arrays, here, strict=True):
            offset = array.ctypes.data - first if inside else -(-used // _ALIGN_BYTES) * _ALIGN_BYTES
            if not inside:
                used = offset + array.nbytes
                if used > end:
                    return None
                self._memory[offset:used] = array.reshape(-1).view(np.uint8)
            places.append(_Place(offset, array.shape, array.dtype.str))
        remaining = iter(places)
        return _Note(slot, _fields(pack, lambda tensor: next(remaining)))

    def read(self, note: _Note, *, pin_memory: bool) -> PackedBatch:
        """The pack of a note, its tensors on the slot, which they keep busy; or copied, into pinned memory."""
        arrays = [self._array(place) for place in _places(note.fields)]
        left = [len(arrays)]

        def gone() -> None:
            left[0] -= 1
            if not left[0]:
                self.free(note.slot)

        for array in arrays:
            weakref.finalize(array, gone).atexit = False
        arrays.reverse()
        pack = _pack(note.fields, lambda place: torch.from_numpy(arrays.pop()))
        return pack.pin_memory() if pin_memory else pack

    def _array(self, place: _Place) -> np.ndarray:
        dtype = np.dtype(place.dtype)
        size_bytes = int(np.prod(place.shape, dtype=np.int64)) * dtype.itemsize
        return self._memory[place.offset : place.offset + size_bytes].view(dtype).reshape(place.shape)


class _SlotDataset(Dataset):
    """A dataset of packs as a worker sees it: packs become notes."""

    def __init__(self, packs: Dataset, slots: Slots):
        self.packs, self.slots = packs, slots

    def __getitem__(self, rows: Any) -> Any:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        slot = self.slots.take(worker.id)
        if slot is None:
            return self.packs[rows]
        try:
            if isinstance(self.packs, PackDataset):
                self.packs.allocate = partial(self.slots.allocate, slot=slot)
            pack = self.packs[rows]
            note = self.slots.write(pack, slot)
            if note is not None:
                return note
            # It is pickled by a thread, later: nothing of it may lie in a slot that is written again.
            vision = pack.vision
            if vision is not None:
                pack = dataclasses.replace(pack, vision=dataclasses.replace(vision, patches=vision.patches.clone()))
        except BaseException:
            self.slots.free(slot)
            raise
        finally:
            if isinstance(self.packs, PackDataset):
                self.packs.allocate = empty_patches
        self.slots.free(slot)
        return pack


class PackLoader(DataLoader):
    """A DataLoader of packs, one at a time, that come through shared slots where processes are forked.

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
        # Slots of an iterator of its own: two of them may be alive at a time.
        slots = Slots(self.num_workers, prefetch + SPARE_SLOTS, self._slot_bytes)
        through = DataLoader(
            _SlotDataset(self.dataset, slots),
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.num_workers,
            prefetch_factor=prefetch,
            worker_init_fn=self.worker_init_fn,
        )
        for item in through:
            yield slots.read(item, pin_memory=self._pin) if isinstance(item, _Note) else self._pinned(item)

    def _pinned(self, pack: PackedBatch) -> PackedBatch:
        return pack.pin_memory() if self._pin else pack


def slot_bytes_of(tokens: int, patches: int, patch_bytes: int) -> int:
    """Room for any pack of so many tokens and patches, with all indexes as int64."""
    per_token = 8 * 6  # ids, positions, supervised index, targets, image index, bounds
    per_patch = patch_bytes + 8 * 4  # positions, window order and its inverse
    return tokens * per_token + patches * per_patch + (1 << 16)


def _arrays(pack: PackedBatch) -> Iterator[np.ndarray]:
    """All tensors of a pack as arrays, in the order of its fields."""
    for item in dataclasses.fields(pack):
        held = getattr(pack, item.name)
        if isinstance(held, Tensor):
            yield held.numpy()
        elif isinstance(held, VisionInputs):
            yield from (value.numpy() for value in vars(held).values() if isinstance(value, Tensor))


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


def _places(fields: dict[str, Any]) -> Iterator[_Place]:
    for value in fields.values():
        if isinstance(value, _Place):
            yield value
        elif isinstance(value, dict):
            yield from _places(value)


def _pack(fields: dict[str, Any], tensor: Callable[[_Place], Tensor]) -> PackedBatch:
    """The batch of such fields, with a tensor for each place, in their order."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            inner = {n: tensor(held) if isinstance(held, _Place) else held for n, held in value.items()}
            values[name] = VisionInputs(**inner)
        else:
            values[name] = tensor(value) if isinstance(value, _Place) else value
    return PackedBatch(**values)
