"""Checkpoints that PyTorch wrote, opened without running anything that lies in them and without reading their values.

A `.ckpt` file is a zip archive of a pickle and the tensors' bytes; loaded in safe mode as fake tensors it tells shapes
and byte offsets, a few kilobytes of reading for a file of 16 GB. A sharded directory (torch.distributed.checkpoint)
keeps one such archive per piece, and a `.metadata` file that is a plain pickle, which PyTorch itself opens without any
check (an issue that is open upstream). Here its classes must be those of the format; any other name is refused.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .averaging_format import TensorFacts
from .averaging_reading import Piece

LIGHTNING_MODULES = ("state_dict", "model")
"""First step of the path of a module's tensors in Lightning's sharded directories."""

METADATA_CLASSES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("collections", "OrderedDict"),
    *(("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(("pathlib._local", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
            *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
        )
    ),
}


@dataclass(frozen=True)
class Found:
    """Tensors by name, where they are, what else is known; equal `memory` means that two names share one tensor."""

    tensors: dict[str, TensorFacts]
    locate: Callable[[str], tuple[Piece, ...]]
    files: tuple[Path, ...]
    memory: Mapping[str, Hashable] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """Names that are no tensors."""


def open_torch_file(path: Path) -> Found:
    """A Lightning checkpoint, or a file with a bare state dict. ValueError when opening it could run code."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError(f"{path} is no checkpoint that torch.save has written since version 1.6")
        file.seek(0)
        content = _load_fake(file, path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    pieces = {key: _piece_of(tensor, path, 0, (0,) * tensor.ndim) for key, tensor in tensors.items()}
    return Found(
        tensors={key: TensorFacts(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()},
        locate=lambda key: (pieces[key],),
        files=(path,),
        memory={key: (piece.start_bytes, piece.shape, piece.strides) for key, piece in pieces.items()},
        facts=_facts_of(content),
        others=tuple(key for key, value in state.items() if not isinstance(value, Tensor)),
    )


def open_sharded(folder: Path) -> Found:
    """A directory of torch.distributed.checkpoint: of Lightning's the module's tensors, of any other all."""
    metadata = read_metadata(folder / ".metadata")
    paths = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
    names = {key: key for key in metadata.state_dict_metadata}
    for first in LIGHTNING_MODULES:
        nested = {key: key.removeprefix(f"{first}.") for key in names if tuple(paths.get(key, ()))[:1] == (first,)}
        if nested and all(len(paths[key]) > 1 for key in nested):
            names = nested
            break
    entries = {names[key]: (key, entry) for key, entry in metadata.state_dict_metadata.items() if key in names}
    tensors = {
        name: TensorFacts(tuple(entry.size), entry.properties.dtype)
        for name, (_, entry) in entries.items()
        if hasattr(entry, "properties")
    }
    stored: dict[str, list[tuple[Any, Any]]] = {}
    for index, place in metadata.storage_data.items():
        stored.setdefault(index.fqn, []).append((index, place))

    def locate(name: str) -> tuple[Piece, ...]:
        return tuple(_stored_piece(folder, index, place) for index, place in stored.get(entries[name][0], ()))

    files = {place.relative_path for key, _ in entries.values() for _, place in stored.get(key, ())}
    for file in sorted(files):
        if Path(file).name != file:
            raise ValueError(f"{folder / '.metadata'} points to {file}, outside its folder")
        if not (folder / file).is_file():
            raise ValueError(f"{folder} lacks {file}, which its .metadata names")
    return Found(
        tensors=tensors,
        locate=locate,
        files=tuple(folder / file for file in sorted(files)),
        facts=_facts_beside(folder / "meta.pt"),
        others=tuple(name for name, (_, entry) in entries.items() if not hasattr(entry, "properties")),
    )


def read_metadata(path: Path) -> Any:
    """The `.metadata` of a sharded directory; ValueError naming the class when it holds one that the format lacks."""
    with path.open("rb") as file:
        try:
            return _MetadataUnpickler(file).load()
        except _ForeignClass as error:
            raise ValueError(
                f"{path} holds {error}, which is no part of the format; opening it could run code"
            ) from error
        except Exception as error:  # a damaged pickle fails in any way
            raise ValueError(f"{path} is damaged: {error}") from error


class _ForeignClass(Exception):
    """The name of a class that has no business in a `.metadata` file."""


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in METADATA_CLASSES:
            raise _ForeignClass(f"{module}.{name}")
        return super().find_class(module, name)


class _FileSlice(io.RawIOBase):
    """`length` bytes of a file as a file."""

    def __init__(self, path: Path, start: int, length: int):
        self._file, self._start, self._length, self._position = path.open("rb"), start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(buffer), self._length - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _stored_piece(folder: Path, index: Any, place: Any) -> Piece:
    path = folder / place.relative_path
    if place.transform_descriptors:
        raise ValueError(f"{path}: {index.fqn} is stored through {place.transform_descriptors}, which cannot be read")
    with io.BufferedReader(_FileSlice(path, place.offset, place.length)) as file:
        tensor = _load_fake(file, path)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{path}: {index.fqn} is no tensor")
    return _piece_of(tensor, path, place.offset, tuple(index.offset) if index.offset else (0,) * tensor.ndim)


def _piece_of(tensor: Tensor, path: Path, archive_bytes: int, offsets: tuple[int, ...]) -> Piece:
    if tensor.layout != torch.strided:
        raise ValueError(f"{path} holds a tensor of layout {tensor.layout}; only dense ones can be averaged")
    # PyTorch notes the byte at which a storage starts in its archive when a checkpoint is loaded as fake tensors.
    start = tensor.untyped_storage()._checkpoint_offset if tensor.numel() else 0
    start += archive_bytes + tensor.storage_offset() * tensor.dtype.itemsize
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return Piece(path, start, offsets, tuple(tensor.shape), strides)


def _load_fake(file: Any, path: Path) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe is None:
            raise ValueError(f"{path} is damaged or cut off: {str(error).splitlines()[0]}") from error
        raise ValueError(f"{path} is not opened: it holds {unsafe[1]} and opening it could run code") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut off: {str(error).splitlines()[0]}") from error


def _facts_beside(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return _facts_of(_load_fake(file, path))


def _facts_of(content: Any) -> dict[str, int]:
    """Step, epoch and sequence length, as far as a Lightning checkpoint tells them."""
    if not isinstance(content, dict):
        return {}
    facts = {"step": content.get("global_step"), "epoch": content.get("epoch")}
    for settings in ("hyper_parameters", "datamodule_hyper_parameters"):
        hyper = content.get(settings)
        if isinstance(hyper, dict) and "sequence_length" in hyper:
            facts["sequence_length"] = hyper["sequence_length"]
    return {name: value for name, value in facts.items() if isinstance(value, int)}
