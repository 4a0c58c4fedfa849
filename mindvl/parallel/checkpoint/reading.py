"""The way back: nothing in a checkpoint is run, and what does not fit is said before anything is changed.

PyTorch opens `.metadata`, and what is no tensor in the files, as plain pickles, which can run any code. Here both are
opened with the classes of the format alone.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint._nested_dict import set_element

METADATA = ".metadata"

_CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    **{module: {"PosixPath", "PurePosixPath", "WindowsPath"} for module in ("pathlib", "pathlib._local")},
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _CLASSES.get(module, ()):
            raise ValueError(f"it holds {module}.{name}, which is no part of the format and could run code")
        return super().find_class(module, name)


def read_metadata(folder: Path) -> Any:
    """torch.distributed.checkpoint's Metadata of a checkpoint. ValueError when it is damaged or could run code."""
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            return _MetadataUnpickler(file).load()
    except Exception as error:  # a damaged pickle fails in any way
        raise ValueError(f"{path} cannot be opened: {error}") from error


class CheckpointReader(FileSystemReader):
    """Reads slices; the metadata is read once."""

    def __init__(self, folder: Path, metadata: Any):
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        return self._metadata


class CheckpointPlanner(DefaultLoadPlanner):
    """Which slices this rank needs; what is no tensor is opened in safe mode."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        set_element(self.original_state_dict, self.mappings[name], torch.load(value, weights_only=True))


def find_misfit(state: Mapping[str, Mapping[str, Any]], metadata: Any) -> str | None:
    """Why a checkpoint cannot fill a state of {"model": ..., "optimizer": ...}, or None.

    Names and shapes are compared; of the whole tensors, so the meshes of saving and loading do not matter.
    """
    saved = metadata.state_dict_metadata
    model = {f"model.{name}": value for name, value in state["model"].items()}
    for what, ours, theirs in (
        ("it lacks", model.keys(), saved.keys()),
        ("the configured one lacks", {name for name in saved if name.startswith("model.")}, model.keys()),
    ):
        if lacking := sorted(ours - theirs):
            return f"it holds another model: {what} {_named(lacking)}"
    differ = sorted(name for name, value in model.items() if tuple(saved[name].size) != tuple(value.shape))
    if differ:
        name = differ[0]
        return (
            f"it holds another model: {name.removeprefix('model.')} has shape {tuple(saved[name].size)}, the "
            f"configured one {tuple(model[name].shape)}; so have {len(differ) - 1} other tensors"
        )
    if not state.get("optimizer"):
        return None
    ours = {f"optimizer.{name}" for name in state["optimizer"]}
    theirs = {name for name in saved if name.startswith("optimizer.")}
    if apart := sorted(ours ^ theirs):
        which = "it lacks" if apart[0] in ours else "this run's lacks"
        return f"its optimizer is another one, or has trained other parameters: {which} {_named(apart)}"
    return None


def _named(names: list[str]) -> str:
    first = names[0].partition(".")[2]
    return first if len(names) == 1 else f"{first} and {len(names) - 1} others"
