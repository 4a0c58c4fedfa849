"""A checkpoint of many ranks as a folder of safetensors, written with one tensor in memory at a time.

    consolidate("runs/sft/checkpoints/step-400.ckpt", "step-400", prefix="model.")

The files are laid out before a value is read, since `.metadata` has all shapes; then each tensor is put together from
its slices and written behind the one before. DeepSeek-V3 in bf16 takes 1.3 TB of disk and 15 GB of memory, its largest
stack of experts: 256 x 4,096 x 7,168.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindvl.parallel.checkpoint import folder as names
from mindvl.parallel.checkpoint.manifest import find_damage, read_manifest
from mindvl.parallel.checkpoint.reading import CheckpointPlanner, CheckpointReader, read_metadata

FILE_BYTES = 5 << 30
_WORDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PART = "model."
"""Beside it a checkpoint has "optimizer."."""


def consolidate(
    checkpoint: str | Path,
    out: str | Path,
    *,
    prefix: str = "",
    file_bytes: int = FILE_BYTES,
    verify: bool = True,
) -> None:
    """Write the tensors of a checkpoint's module into a new folder: files of `file_bytes`, and an index for several.

    Args:
        checkpoint: a directory that `MindVLStrategy` has written, or a link to one.
        out: the folder; it appears when it is whole.
        prefix: only names that begin with it, without it; "model." gives a phase's MindVL.
        verify: compare checksums first.

    Raises ValueError when the checkpoint is damaged or has no such tensor, FileExistsError when `out` is there.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if os.path.lexists(out):
        raise FileExistsError(f"{out} is there already")
    manifest = read_manifest(checkpoint)
    if damage := find_damage(checkpoint, manifest, hashes=verify):
        raise ValueError(damage)
    metadata = read_metadata(checkpoint)
    entries = {
        key.removeprefix(_PART + prefix): (key, entry)
        for key, entry in metadata.state_dict_metadata.items()
        if key.startswith(_PART + prefix)
    }
    if not entries:
        raise ValueError(f"{checkpoint} has no tensor whose name begins with {prefix!r}")
    reader = CheckpointReader(checkpoint, metadata)
    names.stage(out)
    files = list(_files(entries, file_bytes))
    for number, keys in enumerate(files):
        with (names.staging_of(out) / _name(number, len(files))).open("wb") as file:
            file.write(_header({name: entries[name][1] for name in keys}))
            for name in keys:
                file.write(memoryview(_read(reader, metadata, *entries[name]).reshape(-1).view(torch.uint8).numpy()))
            file.flush()
            os.fsync(file.fileno())
    if len(files) > 1:
        weight_map = {name: _name(number, len(files)) for number, keys in enumerate(files) for name in keys}
        total_bytes = sum(_num_bytes(entry) for _, entry in entries.values())
        index = json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}, indent=2)
        (names.staging_of(out) / "model.safetensors.index.json").write_text(index)
    names.publish(out)


def _files(entries: dict[str, tuple[str, Any]], file_bytes: int) -> Iterator[list[str]]:
    """Names of the tensors of each file; the widest dtypes come first, so that all are aligned."""
    keys: list[str] = []
    filled_bytes = 0
    for name in sorted(entries, key=lambda name: (-entries[name][1].properties.dtype.itemsize, name)):
        size_bytes = _num_bytes(entries[name][1])
        if keys and filled_bytes + size_bytes > file_bytes:
            yield keys
            keys, filled_bytes = [], 0
        keys.append(name)
        filled_bytes += size_bytes
    yield keys


def _header(entries: dict[str, Any]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end_bytes = 0
    for name, entry in entries.items():
        start_bytes, end_bytes = end_bytes, end_bytes + _num_bytes(entry)
        word = _WORDS[entry.properties.dtype]
        header[name] = {"dtype": word, "shape": list(entry.size), "data_offsets": [start_bytes, end_bytes]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def _read(reader: CheckpointReader, metadata: Any, key: str, entry: Any) -> Tensor:
    """A whole tensor, from all its slices."""
    tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
    planner = CheckpointPlanner()
    planner.set_up_planner({key: tensor}, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()
    return tensor


def _num_bytes(entry: Any) -> int:
    return prod(entry.size) * entry.properties.dtype.itemsize


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"
