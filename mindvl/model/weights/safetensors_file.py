"""One safetensors file: its header, what is wrong with it, and any rows of its tensors.

    8 bytes    length of the header, little-endian
    header     JSON: {"norm.weight": {"dtype": "BF16", "shape": [4096], "data_offsets": [0, 8192]}, ...}
    data       the tensors, one after the other

Rows are read with plain reads into memory of their own. A mapped file would be counted into the process's memory page
by page as it is touched, until the whole file is.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mindvl.model.weights.tail import check_tail

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape and dtype, and where its bytes begin, counted from the start of the file."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    start_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def end_bytes(self) -> int:
        return self.start_bytes + math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file, in the order of their bytes.

    ValueError when the file is no safetensors file, shorter or longer than its header says, or ends in zeros.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path} is truncated: its header takes {8 + length} bytes, the file has {size}")
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            found = {key: _stored(path, 8 + length, entry) for key, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
        found = dict(sorted(found.items(), key=lambda item: item[1].start_bytes))
        position = 8 + length
        for key, stored in found.items():
            if stored.start_bytes != position:
                raise ValueError(f"{path}: {key} begins at byte {stored.start_bytes}, but {position} is the next free")
            position = stored.end_bytes
        if position != size:
            word = "truncated" if size < position else "too long"
            raise ValueError(f"{path} is {word}: its header says {position} bytes, the file has {size}")
        check_tail(path, file, found)
    return found


def _stored(path: Path, data_start: int, entry: dict) -> Stored:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not read; known are {', '.join(DTYPES)}")
    start, end = entry["data_offsets"]
    stored = Stored(path, tuple(entry["shape"]), DTYPES[entry["dtype"]], data_start + start)
    if stored.end_bytes - stored.start_bytes != end - start:
        raise ValueError(f"shape {entry['shape']} of {entry['dtype']} does not fill {end - start} bytes")
    return stored


def read_rows(stored: Stored, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of a tensor (all of it when it has no dimension). ValueError when the file ends early."""
    shape = (stop - start, *stored.shape[1:]) if stored.shape else ()
    rows = torch.empty(shape, dtype=stored.dtype)
    if rows.numel():
        with stored.file.open("rb", buffering=0) as file:
            file.seek(stored.start_bytes + start * stored.row_bytes)
            _read_into(file, rows)
    return rows


def _read_into(file, tensor: Tensor) -> None:
    target = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
    done = 0
    while done < len(target):  # one read of Linux ends after 2 GiB
        count = file.readinto(target[done:])
        if not count:
            raise ValueError(f"{file.name} ended {len(target) - done} bytes early while it was read")
        done += count
