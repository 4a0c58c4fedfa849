"""A rank's share of a model on disk, written while the model trains: one safetensors file, no tensor gathered.

    mean.snapshots/step-00000400/rank-00000.safetensors    every tensor, or this rank's shards of them
    mean.snapshots/mean-00000400/rank-00000.safetensors    the mean of all snapshots up to here, in fp32

Under DDP every rank holds the same, so rank 0 writes alone. A sharded parameter (DTensor) is written as the part that
this rank holds; the mean of parts is the part of the mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .averaging_files import write_at
from .averaging_format import TensorFacts, plan_layout, read_layout
from .averaging_mean import AVERAGED, BLOCK_ELEMENTS, Shares, is_finite, mean_of_tensor
from .averaging_reading import BlockReader, Checkpoint
from .averaging_states import tied_names


def local_tensors(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What this rank holds of the tensors with a prefix, which is taken off, and the second names of tied ones."""
    local = {
        key.removeprefix(prefix): (value.to_local() if isinstance(value, DTensor) else value).detach()
        for key, value in state.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
    if not local:
        raise ValueError(f"no tensor of the module begins with {prefix!r}; its first are {sorted(state)[:3]}")
    tied = tied_names(local)
    return {key: value for key, value in local.items() if key not in tied}, tied


def write_snapshot(path: Path, tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    """Tensors in their own dtypes. ValueError naming the tensor when a value is not finite."""
    facts = {key: TensorFacts(tuple(value.shape), value.dtype) for key, value in tensors.items()}
    _write(path, facts, tensors, {"format": "pt", **tied})


def write_running_mean(
    path: Path, tensors: Mapping[str, Tensor], tied: Mapping[str, str], *, before: Checkpoint | None, steps: list[int]
) -> None:
    """The mean that `before` holds, of all `steps` but the last, with one more set of tensors in it; weights in fp32.

    The dtypes that the weights had, and the steps, are in the file's metadata.
    """
    facts, dtypes = {}, {}
    for key, value in tensors.items():
        wide = torch.promote_types(value.dtype, torch.float32) if value.dtype in AVERAGED else value.dtype
        facts[key], dtypes[key] = TensorFacts(tuple(value.shape), wide), str(value.dtype).removeprefix("torch.")
    metadata = {"format": "pt", "steps": json.dumps(steps), "dtypes": json.dumps(dtypes), **tied}
    _write(path, facts, tensors, metadata, before=before, count=len(steps))


def steps_of(path: Path) -> list[int]:
    """The steps that are in a running mean."""
    return json.loads(read_layout(path).metadata["steps"])


def dtypes_of(path: Path) -> dict[str, torch.dtype]:
    """The dtypes that the weights in a running mean had in the model."""
    return {key: getattr(torch, name) for key, name in json.loads(read_layout(path).metadata["dtypes"]).items()}


def mean_in_memory(
    checkpoints: list[Checkpoint], shares: Shares, dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """The mean of this rank's files as tensors: as much memory as the rank's share of the model."""
    means = {}
    for key, facts in checkpoints[0].tensors.items():
        held = bytearray(facts.num_elements * dtypes[key].itemsize)

        def put(at: int, view: memoryview, held: bytearray = held) -> None:
            held[at : at + len(view)] = view

        mean_of_tensor(checkpoints, key, shares, dtypes[key], put, newest_integers=True)
        empty = torch.empty(facts.shape, dtype=dtypes[key])
        means[key] = torch.frombuffer(held, dtype=dtypes[key]).view(facts.shape) if held else empty
    return means


def copy_into(target: Tensor, checkpoint: Checkpoint, key: str) -> None:
    """Put a checkpoint's tensor in the place of one in memory."""
    reader, flat = BlockReader(checkpoint, key), target.view(-1)
    for start in range(0, flat.numel(), BLOCK_ELEMENTS):
        stop = min(start + BLOCK_ELEMENTS, flat.numel())
        flat[start:stop].copy_(reader.read(start, stop).values)


def found_steps(folder: Path, word: str) -> dict[int, Path]:
    """Folders `<word>-<step>` by step."""
    pattern = re.compile(rf"{word}-(\d+)")
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(match.group(1)): path for path in paths if (match := pattern.fullmatch(path.name))}


def rank_file(folder: Path, rank: int) -> Path:
    """The file of one rank in a snapshot's folder."""
    return folder / f"rank-{rank:05d}.safetensors"


def _write(
    path: Path,
    facts: Mapping[str, TensorFacts],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    before: Checkpoint | None = None,
    count: int = 1,
) -> None:
    first, layout = plan_layout(facts, metadata)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.ftruncate(handle, layout.size_bytes)
        write_at(handle, 0, memoryview(first))
        for key, value in tensors.items():
            # Weights whose dtype has a mean move towards the new value by 1 / count; other tensors are replaced.
            earlier = BlockReader(before, key) if before is not None and value.dtype in AVERAGED else None
            _write_tensor(handle, layout.starts_bytes[key], key, value, facts[key].dtype, earlier, count)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_tensor(
    handle: int, start_bytes: int, key: str, value: Tensor, dtype: torch.dtype, before: BlockReader | None, count: int
) -> None:
    flat = value.reshape(-1)
    for start in range(0, flat.numel(), BLOCK_ELEMENTS):
        stop = min(start + BLOCK_ELEMENTS, flat.numel())
        held = bytearray((stop - start) * dtype.itemsize)
        block = torch.frombuffer(held, dtype=dtype)
        block.copy_(flat[start:stop])
        if block.is_floating_point() and not is_finite(block):
            raise ValueError(f"{key} holds a value that is not finite, so it is not averaged")
        if before is not None:
            block.copy_(torch.lerp(before.read(start, stop).values, block, 1 / count))
        write_at(handle, start_bytes + start * dtype.itemsize, memoryview(held))
