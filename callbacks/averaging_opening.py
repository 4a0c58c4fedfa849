"""Opens any kind of checkpoint by what lies at its path.

    runs/sft-4096/model             a folder of safetensors files, with its index when they are several
    runs/sft-4096/last.ckpt         a Lightning checkpoint or another torch.save file
    runs/sft-4096/step=4000.ckpt    a sharded directory, which holds a .metadata file

A prefix selects the keys that begin with it and takes it off: with "model." a Lightning checkpoint's
`model.head.weight` is the `head.weight` of the folder that the model itself saved.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path

from .averaging_format import TensorFacts, read_layout
from .averaging_pickled import Found, open_sharded, open_torch_file
from .averaging_reading import Checkpoint, Piece

INDEX = "model.safetensors.index.json"
RECORD = "averaging.json"


def open_checkpoint(path: str | Path, *, prefix: str = "") -> Checkpoint:
    """Names, shapes, dtypes and places of a checkpoint's tensors; no value is read.

    ValueError with the path and the key when the checkpoint is damaged, incomplete, could run code on opening, or
    holds nothing with the prefix.
    """
    path, folder = Path(path), None
    if (path / ".metadata").is_file():
        found = open_sharded(path)
    elif path.is_dir():
        found, folder = _open_folder(path), path
    elif path.is_file():
        found = _open_files((path,)) if path.suffix == ".safetensors" else open_torch_file(path)
    else:
        raise ValueError(f"{path} is no checkpoint: there is no such file or folder")
    names = [name for name in found.tensors if name.startswith(prefix)]
    if not names:
        raise ValueError(f"{path} has no tensor with prefix {prefix!r}; its first are {sorted(found.tensors)[:3]}")
    _check_only_weights(path, names, [name for name in found.others if name.startswith(prefix)])
    kept, tied = _apart(names, found, prefix)
    return Checkpoint(
        name=str(path),
        tensors=kept,
        locate=lambda key: found.locate(prefix + key),
        files=found.files,
        tied=tied,
        facts=found.facts,
        checksums=_stored_checksums(path) if folder and not prefix else {},
        folder=folder,
    )


def _apart(names: list[str], found: Found, prefix: str) -> tuple[dict[str, TensorFacts], dict[str, str]]:
    """Tensors under their first names, and second names with the first."""
    owners: dict[Hashable, str] = {}
    kept: dict[str, TensorFacts] = {}
    tied: dict[str, str] = {}
    for name in names:
        short = name.removeprefix(prefix)
        memory = found.memory.get(name) if found.tensors[name].num_elements else None
        owner = short if memory is None else owners.setdefault(memory, short)
        if owner == short:
            kept[short] = found.tensors[name]
        else:
            tied[short] = owner
    return kept, tied


def _check_only_weights(path: Path, names: list[str], others: list[str]) -> None:
    if others:
        raise ValueError(f"{path}: {others[0]} is no tensor, so it has no mean; choose the weights with a prefix")
    optimizers = [name for name in names if name.startswith(("optim", "optimizer"))]
    if optimizers and len(optimizers) < len(names):
        raise ValueError(f"{path} holds {optimizers[0]} beside weights; choose the weights with a prefix")


def _open_folder(folder: Path) -> Found:
    files = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if index.is_file():
        return _open_indexed(index)
    if not files:
        raise ValueError(f"{folder} is no saved model: it has no safetensors file")
    shards = [file.name for file in files if "-of-" in file.name]
    if shards:
        raise ValueError(f"{folder} holds {shards[0]} but no {INDEX}, so a missing shard would not be noticed")
    return _open_files(tuple(files))


def _open_indexed(index: Path) -> Found:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(file): {key for key, its in weight_map.items() if its == file} for file in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of safetensors files: {error!r}") from error
    for file, keys in wanted.items():
        if Path(file).name != file:
            raise ValueError(f"{index} points to {file}, outside its folder")
        path = index.parent / file
        if not path.is_file():
            raise ValueError(f"{index.parent} lacks {file}, which its index names for {min(keys)}")
        held = read_layout(path).tensors.keys()
        if held != keys:
            raise ValueError(
                f"{path} and the index disagree: only in the index {sorted(keys - held)[:3]}, "
                f"only in the file {sorted(held - keys)[:3]}"
            )
    return _open_files(tuple(index.parent / file for file in sorted(wanted)))


def _open_files(files: tuple[Path, ...]) -> Found:
    tensors: dict[str, TensorFacts] = {}
    pieces: dict[str, Piece] = {}
    for file in files:
        layout = read_layout(file)
        # safetensors' save_model notes a tied tensor's second name in the metadata: {"lm_head.weight": "embed.weight"}.
        second = {name: owner for name, owner in layout.metadata.items() if owner in layout.tensors}
        for key, owner in [*((key, key) for key in layout.tensors), *second.items()]:
            if key in tensors:
                raise ValueError(f"{key} is both in {pieces[key].path} and in {file}")
            facts = tensors[key] = layout.tensors[owner]
            pieces[key] = Piece(file, layout.starts_bytes[owner], (0,) * len(facts.shape), facts.shape)
    memory = {key: (piece.path, piece.start_bytes) for key, piece in pieces.items()}
    return Found(tensors, lambda key: (pieces[key],), files, memory=memory)


def _stored_checksums(folder: Path) -> dict[str, int]:
    record = folder / RECORD
    if not record.is_file():
        return {}
    try:
        return {key: int(word, 16) for key, word in json.loads(record.read_text()).get("crc32", {}).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{record} is no record of an average: {error}") from error
