"""Weights go from a checkpoint into safetensors files block by block: no tensor, shard or model is in memory whole.

A tensor that a checkpoint stores with strides of its own is the exception, it is read in one piece.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mindvl_callbacks.averaging_files import FlushBehind, plan_files, write_at, write_index
from mindvl_callbacks.averaging_format import TensorFacts
from mindvl_callbacks.averaging_opening import INDEX
from torch import Tensor

from mindvl.model.export.tensors import Given, Weights, Written, blocks


@dataclass(frozen=True)
class Shards:
    """What was written: files with their sizes in bytes, and tensors that hold a value which is not finite."""

    sizes_bytes: dict[str, int]
    not_finite: tuple[str, ...]


def write_shards(folder: Path, written: Mapping[str, Written], weights: Weights, *, max_shard_bytes: int) -> Shards:
    """Fill the files of a model, with an index when they are several; they are on disk when this returns."""
    facts = {name: TensorFacts(its.shape, its.dtype) for name, its in written.items()}
    files = plan_files(facts, {}, max_shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    not_finite = []
    with FlushBehind() as disk:
        for file, (header, layout) in files.items():
            handle = disk.open(folder / file)
            os.ftruncate(handle, layout.size_bytes)
            write_at(handle, 0, memoryview(header))
            for name, first_byte in layout.starts_bytes.items():
                if not _write(handle, first_byte, written[name], weights):
                    not_finite.append(name)
                disk.wrote(handle)
        disk.flush_all()
    if len(files) > 1:
        write_index(folder / INDEX, files)
    return Shards({file: layout.size_bytes for file, (_, layout) in files.items()}, tuple(sorted(not_finite)))


def _write(handle: int, first_byte: int, its: Written, weights: Weights) -> bool:
    """Write a tensor to its place; whether all of its values are finite."""
    if isinstance(its, Given):
        write_at(handle, first_byte, _bytes_of(its.value.reshape(-1)))
        return True
    finite = True
    for start, stop in blocks(its.num_elements):
        block = weights.read(its.source, its.start + start, its.start + stop)
        finite = finite and (not block.is_floating_point() or bool(block.isfinite().all()))
        write_at(handle, first_byte + start * its.dtype.itemsize, _bytes_of(block))
    return finite


def _bytes_of(flat: Tensor) -> memoryview:
    return memoryview(flat.contiguous().view(torch.uint8).numpy())
