"""A folder of weights as one set of named tensors, opened strictly and read by rows.

    config.json, model.safetensors                                                  one file
    config.json, model.safetensors.index.json, model-00001-of-00003.safetensors ... several; the index lists every name

Nothing is read but headers until somebody asks for rows. Pickles can run code when they are opened, so they are
refused unless a flag named for that danger is given; then torch's restricted unpickler reads them all the same.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindvl.model.weights.safetensors_file import Stored, read_header, read_rows

INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_OTHERS = {".gguf": "GGUF", ".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".tflite": "TensorFlow Lite"}


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of a folder: places in files, or mapped tensors of a pickle. `config` is its config.json."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Stored | Tensor]

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows of a tensor; all of one without dimensions."""
        stored = self.tensors[key]
        if isinstance(stored, Stored):
            return read_rows(stored, start, stop)
        return stored[start:stop] if stored.ndim else stored


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder. ValueError when it is absent or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no saved model, it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, no object")
    return config


def open_checkpoint(folder: Path, *, allow_pickle_which_can_run_code: bool = False) -> Checkpoint:
    """All tensors that a folder holds.

    ValueError with the file and the key when a file is damaged, the index and the files disagree, the weights are
    quantized, or the folder holds weights of another format only.
    """
    config = read_config(folder)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "of no name")
        raise ValueError(f"{folder} holds weights quantized by method {method}; their scales are not applied here")
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        return Checkpoint(folder, config, dict(_indexed(folder / INDEX)))
    shards = [file.name for file in files if "-of-" in file.name]
    if shards:
        raise ValueError(f"{folder} holds {shards[0]} but no {INDEX}, so a missing file would not be noticed")
    if len(files) > 1:
        raise ValueError(f"{folder} holds {len(files)} safetensors files ({files[0].name}, ...) and no {INDEX}")
    if files:
        return Checkpoint(folder, config, dict(read_header(files[0])))
    return _other_formats(folder, config, allow_pickle_which_can_run_code)


def _indexed(index: Path) -> dict[str, Stored]:
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        files = sorted({str(file) for file in weight_map.values()})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of safetensors files: {error!r}") from error
    absent = [file for file in files if Path(file).name != file or not (index.parent / file).is_file()]
    if absent:
        raise ValueError(
            f"{index} names {len(absent)} of {len(files)} files that are not in its folder (first: {absent[:3]})"
        )
    found: dict[str, Stored] = {}
    for file in files:
        held, named = read_header(index.parent / file), {key for key, its in weight_map.items() if its == file}
        if held.keys() != named:
            raise ValueError(
                f"{index.parent / file} and the index disagree: {len(named - held.keys())} tensors are in the index "
                f"only (first: {sorted(named - held.keys())[:3]}), {len(held.keys() - named)} in the file only "
                f"(first: {sorted(held.keys() - named)[:3]})"
            )
        found |= held
    return found


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{file} cannot be read without running code of its own: {first}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} holds more than named tensors")
    return state


def _other_formats(folder: Path, config: dict[str, Any], allow_pickle: bool) -> Checkpoint:
    """The errors of a folder without safetensors, or its pickles where they are allowed."""
    pickles = sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles and allow_pickle:
        return Checkpoint(folder, config, {key: it for file in pickles for key, it in _unpickled(file).items()})
    if pickles:
        raise ValueError(
            f"{folder} holds pickled weights only ({pickles[0].name}), and opening a pickle can run code: convert it "
            f"to safetensors, or set allow_pickle_which_can_run_code"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix in _OTHERS:
            raise ValueError(f"{folder} holds {_OTHERS[file.suffix]} weights ({file.name}); only safetensors are read")
    raise ValueError(f"{folder} has no safetensors file")
