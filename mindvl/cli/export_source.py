"""What is exported: the tensors of a checkpoint, and the config and tokenizer that say what they mean.

    runs/sft/model                        a saved folder has all three
    runs/sft/checkpoints/last.ckpt        Lightning's file has tensors; the config of its run lies nearby,
    runs/sft/checkpoints/step-400.ckpt    as it does for a sharded directory, which holds a .metadata file

Nothing is read but headers until an export asks for elements of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mindvl_callbacks.averaging_format import TensorFacts
from mindvl_callbacks.averaging_opening import open_checkpoint
from mindvl_callbacks.averaging_reading import BlockReader, Checkpoint
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mindvl.model.config import MindVLConfig
from mindvl.model.export.adapters import MergedWeights, has_adapters
from mindvl.model.export.tensors import Weights
from mindvl.model.weights.assembly import check_token_ids, require_saved
from mindvl.model.weights.safetensors_file import read_header

MODULE_PREFIX = "model."
"""A phase's state dict holds the model under this name."""

RUN_CONFIGS = ("csv/config.yaml", "config.yaml", "fit.yaml")


class CheckpointWeights:
    """Tensors of a checkpoint by name, second names of shared ones included; a block is read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint):
        self.name = checkpoint.name
        self.checkpoint = checkpoint
        self.tensors: dict[str, TensorFacts] = {
            **checkpoint.tensors,
            **{second: checkpoint.tensors[first] for second, first in checkpoint.tied.items()},
        }
        self._reader: BlockReader | None = None

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of the flattened tensor; the next call overwrites them."""
        key = self.checkpoint.tied.get(key, key)
        if self._reader is None or self._reader.key != key:
            self._reader = BlockReader(self.checkpoint, key)
        return self._reader.read(start, stop).values


@dataclass(frozen=True)
class Source:
    """A checkpoint ready to be exported."""

    path: Path
    weights: Weights
    files: tuple[Path, ...]
    """All that it is read from."""
    config: MindVLConfig
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Meaning:
    """What a folder or a run says of a checkpoint's tensors."""

    config: MindVLConfig
    tokenizer: PreTrainedTokenizerBase
    adapter_scale: float | None = None
    """alpha / rank of a run with LoRA."""


def open_source(path: Path, *, config: Path | None = None) -> Source:
    """Open a checkpoint without reading its values.

    `config` is a run's YAML file or a saved model's folder; without it, the checkpoint's own folder or its run's is
    searched. ValueError when there is none, when its placeholders are not the tokenizer's, or when the checkpoint is
    damaged or could run code on opening.
    """
    if not path.exists():
        raise ValueError(f"{path} is no checkpoint: there is no such file or folder")
    place = config or config_of_checkpoint(path)
    meaning = _read_saved(place) if _is_saved(place) else _read_run(place)
    check_token_ids(meaning.config, meaning.tokenizer)
    checkpoint = _open(path)
    for file in checkpoint.files:
        if file.suffix == ".safetensors":
            read_header(file)  # refuses a file that was cut short, which its length does not tell
    weights: Weights = CheckpointWeights(checkpoint)
    if has_adapters(weights):
        if meaning.adapter_scale is None:
            raise ValueError(f"{path} holds LoRA adapters, but {place} does not say how they are scaled (model.lora)")
        weights = MergedWeights(weights, meaning.adapter_scale)
    return Source(path, weights, (*checkpoint.files, place), meaning.config, meaning.tokenizer)


def config_of_checkpoint(path: Path) -> Path:
    """The saved folder that holds a checkpoint's config, or the YAML file of its run; ValueError when none is found."""
    if _is_saved(path):
        return path
    nearby = [folder / name for folder in (path.parent, path.parent.parent) for name in (*RUN_CONFIGS, "model")]
    for place in nearby:
        if place.is_file() or _is_saved(place):
            return place
    raise ValueError(
        f"{path} holds no config, and its run's was not found (looked for {', '.join(map(str, nearby))}); name it with "
        "--config: the config.yaml of the run, or the folder of a model that it saved"
    )


def _is_saved(place: Path) -> bool:
    return (place / "config.json").is_file()


def _open(path: Path) -> Checkpoint:
    """The module's tensors, under the names of the model itself."""
    if _is_saved(path):
        return open_checkpoint(path)
    try:
        return open_checkpoint(path, prefix=MODULE_PREFIX)
    except ValueError as error:
        if "has no tensor with prefix" not in str(error):
            raise
    return open_checkpoint(path)


def _read_saved(folder: Path) -> _Meaning:
    from mindvl.data.tokenizer import load_tokenizer

    return _Meaning(require_saved(folder), load_tokenizer(folder))


def _read_run(file: Path) -> _Meaning:
    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.model.lora import Lora
    from mindvl.phases.model_spec import ModelSpec, config_of

    try:
        values = dict(run_config(file)["model"]["init_args"]["model"])
        lora = values.pop("lora", None)
        spec = ModelSpec(**values)
        scale = None if lora is None else Lora(**lora).scale
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is no config of a phase with a model: {error!r}") from error
    try:
        tokenizer = load_tokenizer(spec.tokenizer)
    except OSError as error:
        raise ValueError(f"{file} names tokenizer {spec.tokenizer}, which cannot be opened: {error}") from error
    return _Meaning(config_of(spec, tokenizer), tokenizer, scale)


def run_config(file: Path) -> dict[str, Any]:
    """The YAML file of a run as a mapping; ValueError when it is none."""
    if not file.is_file():
        raise ValueError(f"{file} is neither a run's config file nor the folder of a saved model")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    return content
