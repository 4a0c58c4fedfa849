"""One read per pack: of the ranks that train on the same pack, the first reads it and hands it on.

The others start no data workers and touch no file. What travels is one run of bytes: the batch's structure, pickled,
with its tensors taken out and laid end to end behind it. Whole numbers of 64 bits travel in 32 where they fit, which
for a pack they always do: 8,192 tokens and 16,384 patches are 9.6 MB of pixels and 0.4 MB of everything else.

    [ lengths 2 x int64 ]    then    [ structure | tensor 0 | tensor 1 | ... ]

The end of the data travels like a batch, and so does an error of the reader: nobody waits for a batch that never comes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

_ALIGN_BYTES = 16
_END = "end of the data"


class SharedBatches:
    """A loader as all ranks of a group see it; only the group's first rank iterates over it.

    Args:
        loader: gives batches of anything that can be pickled, with tensors anywhere inside.
        group: ranks that get the same batches.
        device: where batches arrive; it must be one that the group's backend reaches.
    """

    def __init__(self, loader: Iterable[Any], group: ProcessGroup, device: torch.device):
        self.loader, self.group, self.device = loader, group, device

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if dist.get_rank(self.group) > 0:
            yield from self._received()
            return
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches, _END)
            except Exception as error:
                self._send(RuntimeError(f"rank {dist.get_rank()}, which reads for this one, has failed: {error!r}"))
                raise
            shared = self._send(batch)
            if isinstance(batch, str) and batch == _END:
                return
            yield shared

    def _received(self) -> Iterator[Any]:
        while True:
            lengths = torch.empty(2, dtype=torch.int64, device=self.device)
            dist.broadcast(lengths, group_src=0, group=self.group)
            structure_bytes, total_bytes = lengths.tolist()
            flat = torch.empty(total_bytes, dtype=torch.uint8, device=self.device)
            dist.broadcast(flat, group_src=0, group=self.group)
            batch = unpack(flat, structure_bytes)
            if isinstance(batch, Exception):
                raise batch
            if isinstance(batch, str) and batch == _END:
                return
            yield batch

    def _send(self, batch: Any) -> Any:
        flat, structure_bytes = pack(batch)
        flat = flat.to(self.device)
        lengths = torch.tensor([structure_bytes, flat.numel()], device=self.device)
        dist.broadcast(lengths, group_src=0, group=self.group)
        dist.broadcast(flat, group_src=0, group=self.group)
        return unpack(flat, structure_bytes)


def pack(batch: Any) -> tuple[Tensor, int]:
    """A batch as one run of bytes, and how many of them are its structure."""
    tensors: list[Tensor] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            if not isinstance(thing, Tensor):
                return None
            sent = _narrow(thing.detach().cpu().contiguous())
            tensors.append(sent)
            return tuple(sent.shape), sent.dtype, thing.dtype

    stream = io.BytesIO()
    Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(batch)
    structure = torch.frombuffer(stream.getbuffer(), dtype=torch.uint8)
    parts = [structure, *(_bytes_of(tensor) for tensor in tensors)]
    flat = torch.zeros(sum(_aligned(part.numel()) for part in parts), dtype=torch.uint8)
    start = 0
    for part in parts:
        flat[start : start + part.numel()] = part
        start += _aligned(part.numel())
    return flat, structure.numel()


def unpack(flat: Tensor, structure_bytes: int) -> Any:
    """The batch of such bytes, on their device."""
    start = _aligned(structure_bytes)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, stated: Any) -> Tensor:
            nonlocal start
            shape, sent, dtype = stated
            size_bytes = sent.itemsize * torch.Size(shape).numel()
            values = flat[start : start + size_bytes].view(sent).reshape(shape).to(dtype, copy=True)
            start += _aligned(size_bytes)
            return values

    return Unpickler(io.BytesIO(flat[:structure_bytes].cpu().numpy().tobytes())).load()


def _bytes_of(tensor: Tensor) -> Tensor:
    """An empty tensor may have strides that torch does not view as bytes."""
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0, dtype=torch.uint8)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGN_BYTES) * _ALIGN_BYTES


def _narrow(tensor: Tensor) -> Tensor:
    """64-bit whole numbers as 32-bit ones where they fit."""
    if tensor.dtype != torch.int64 or not tensor.numel():
        return tensor
    low, high = tensor.aminmax()
    bounds = torch.iinfo(torch.int32)
    return tensor.to(torch.int32) if bounds.min <= low and high <= bounds.max else tensor
