"""The safetensors file: eight bytes that say how long the header is, a JSON header, and the tensors' bytes.

    19 00 .. 00 | {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} | 8 bytes of w

The safetensors package writes a whole dictionary of tensors at once. An average is larger than memory, so its file is
laid out first (every tensor's place follows from shapes and dtypes) and filled in any order. What is read here is
checked as strictly as the package does: offsets must cover the file without a hole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

MAX_HEADER_BYTES = 100_000_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""The file's words for dtypes."""

WORDS = {dtype: word for word, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorFacts:
    """Shape and dtype of a tensor whose values are on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


@dataclass(frozen=True)
class FileLayout:
    """What a safetensors file holds: facts and first byte (counted from the start of the file) of each tensor."""

    tensors: dict[str, TensorFacts]
    starts_bytes: dict[str, int]
    metadata: dict[str, str]
    size_bytes: int


def read_layout(path: Path) -> FileLayout:
    """The header of a safetensors file. ValueError with the file and what is wrong when it is damaged or cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{path}: {size} bytes cannot hold a header of {length} bytes; no safetensors, or cut off")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", {})
        entries: dict[str, tuple[TensorFacts, int, int]] = {}
        for key, entry in header.items():
            start, end = map(int, entry["data_offsets"])
            entries[key] = (TensorFacts(tuple(map(int, entry["shape"])), DTYPES[entry["dtype"]]), start, end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the header is no safetensors header: {error}") from error
    position = 0
    for key, (facts, start, end) in sorted(entries.items(), key=lambda entry: entry[1][1:]):
        if start != position or end - start != facts.num_bytes or min(facts.shape, default=0) < 0:
            raise ValueError(
                f"{path}: {key} is {facts}, {facts.num_bytes} bytes from {position}, but lies at {start} to {end}"
            )
        position = end
    if 8 + length + position != size:
        raise ValueError(f"{path}: the header wants a file of {8 + length + position} bytes, it has {size}")
    return FileLayout(
        tensors={key: facts for key, (facts, _, _) in entries.items()},
        starts_bytes={key: 8 + length + start for key, (_, start, _) in entries.items()},
        metadata=dict(metadata),
        size_bytes=size,
    )


def plan_layout(tensors: Mapping[str, TensorFacts], metadata: Mapping[str, str]) -> tuple[bytes, FileLayout]:
    """The first bytes of a file for these tensors, and where each of them goes.

    Wide dtypes come first, so that every tensor starts at a multiple of its element size.
    """
    header_entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, position = {}, 0
    for key in sorted(tensors, key=lambda key: (-tensors[key].dtype.itemsize, key)):
        facts = tensors[key]
        if facts.dtype not in WORDS:
            raise ValueError(f"{key} is {facts.dtype}, which a safetensors file cannot hold")
        offsets[key] = position
        end = position + facts.num_bytes
        header_entries[key] = {"dtype": WORDS[facts.dtype], "shape": list(facts.shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(header_entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    first = len(header).to_bytes(8, "little") + header
    starts = {key: len(first) + offset for key, offset in offsets.items()}
    return first, FileLayout(dict(tensors), starts, dict(metadata), len(first) + position)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} occurs twice")
        found[key] = value
    return found
