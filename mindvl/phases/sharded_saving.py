"""Weights of a sharded model as safetensors files, written by the first rank, slice by slice.

The files are laid out first: every tensor's place follows from its shape. Then each slice travels to rank 0 and is
copied to where it belongs in the mapped file, so that no rank holds more than its slices and one of another rank's.

Experts lie stacked in memory and one by one in a folder, which is the same bytes under more names:

    gate_up_proj (E, 2 I, H)   =   experts.0.gate_proj (I, H), experts.0.up_proj (I, H), experts.1.gate_proj (I, H), ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mindvl.model.weights.shards import Box, local_part, whole, within

FILE_BYTES = 5 << 30
"""Files are closed once they are this large."""

_WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}


@dataclass(frozen=True)
class _Region:
    """A tensor's place: a file, and the first of its bytes after the header."""

    file: int
    start_bytes: int


def is_sharded(model: nn.Module) -> bool:
    """Whether any of its parameters is a DTensor."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def save_sharded(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a state whose tensors may be DTensors into a folder that rank 0 has made; every rank must call it.

    With a state without tied weights, the files hold what `MindVL.save_pretrained` would write.
    """
    places = {name: place for name, tensor in state.items() if (place := _own_slice(tensor)) is not None}
    everyone: list[dict[str, Box]] = [places]
    if dist.is_initialized():
        everyone = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, places)
    writer = _Writer(folder, state) if _rank() == 0 else None
    for name, tensor in state.items():
        for owner, held in enumerate(everyone):
            if name not in held or _rank() not in (0, owner):
                continue
            values = _travel(tensor, held[name], owner)
            if writer is not None:
                writer.write(name, held[name], values)
    if dist.is_initialized():
        dist.barrier()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _own_slice(tensor: Tensor) -> Box | None:
    """Where this rank's slice lies, if it is this rank that sends it: the first of those that hold the same."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return whole(tuple(tensor.shape)) if _rank() == 0 else None
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    copies = [at for at, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()]
    if 0 not in mesh.mesh.flatten().tolist() or any(copies):
        return None
    local, place = local_part(tensor)
    return place if local.numel() else None


def _travel(tensor: Tensor, place: Box, owner: int) -> Tensor:
    """The owner's slice, on rank 0."""
    local = local_part(tensor)[0].contiguous() if _rank() == owner else None
    if owner == 0:
        assert local is not None
        return local
    if local is not None:
        dist.send(local, dst=0)
        return local
    device = local_part(tensor)[0].device
    values = torch.empty([stop - start for start, stop in place], dtype=tensor.dtype, device=device)
    dist.recv(values, src=owner)
    return values


class _Writer:
    """Files of a folder, laid out and mapped."""

    def __init__(self, folder: Path, state: Mapping[str, Tensor]):
        headers, self._regions = _layout(state)
        names = _file_names(len(headers))
        self._files: list[tuple[Tensor, int]] = []
        total_bytes = 0
        for name, header in zip(names, headers, strict=True):
            encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
            encoded += b" " * (-len(encoded) % 8)
            data_bytes = max(entry["data_offsets"][1] for entry in header.values())
            with (folder / name).open("wb") as file:
                file.write(len(encoded).to_bytes(8, "little") + encoded)
                file.truncate(8 + len(encoded) + data_bytes)
            size_bytes = 8 + len(encoded) + data_bytes
            mapped = torch.from_file(str(folder / name), shared=True, size=size_bytes, dtype=torch.uint8)
            self._files.append((mapped, 8 + len(encoded)))
            total_bytes += data_bytes
        if len(names) > 1:
            weight_map = {key: name for name, header in zip(names, headers, strict=True) for key in header}
            index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def write(self, name: str, place: Box, values: Tensor) -> None:
        region, shape = self._regions[name], self._shapes[name]
        mapped, start_bytes = self._files[region.file]
        start_bytes += region.start_bytes
        data = mapped[start_bytes : start_bytes + prod(shape) * values.dtype.itemsize]
        data.view(values.dtype).view(shape)[within(place, whole(shape))].copy_(values)


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]


def _layout(state: Mapping[str, Tensor]) -> tuple[list[dict[str, Any]], dict[str, _Region]]:
    """Header entries of each file, and the place of each tensor; the widest dtypes come first, so all are aligned."""
    headers: list[dict[str, Any]] = [{}]
    regions: dict[str, _Region] = {}
    end_bytes = 0
    for name, tensor in sorted(state.items(), key=lambda item: -item[1].dtype.itemsize):
        size_bytes = tensor.numel() * tensor.dtype.itemsize
        if end_bytes and end_bytes + size_bytes > FILE_BYTES:
            headers.append({})
            end_bytes = 0
        regions[name] = _Region(len(headers) - 1, end_bytes)
        for key, shape in _in_folder(name, tuple(tensor.shape)):
            next_bytes = end_bytes + prod(shape) * tensor.dtype.itemsize
            entry = {"dtype": _WORDS[tensor.dtype], "shape": list(shape), "data_offsets": [end_bytes, next_bytes]}
            headers[-1][key], end_bytes = entry, next_bytes
    return headers, regions


def _in_folder(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes under which a tensor lies in a folder, in the order of its bytes."""
    match = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj", name)
    if match is None or len(shape) != 3:
        yield name, shape
        return
    kinds = ("gate", "up") if match[2] == "gate_up" else ("down",)
    for expert in range(shape[0]):
        for kind in kinds:
            yield f"{match[1]}.{expert}.{kind}_proj.weight", (shape[1] // len(kinds), shape[2])
