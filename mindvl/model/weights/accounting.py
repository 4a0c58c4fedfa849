"""Every tensor of a checkpoint gets its place in the model, or the checkpoint is refused.

A model of two layers and a file of three, say, would load without a word if names alone were looked up. Here the file
must hold all that the model needs, nothing else, and each tensor in the model's shape; what may be left out is listed
in `_unexpected` and `_other_projector`, and each time it is said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mindvl.model.config import MindVLConfig
from mindvl.model.parts import part_of
from mindvl.model.towers import tower_kind
from mindvl.model.weights.checkpoint import Checkpoint, open_checkpoint
from mindvl.model.weights.locate import folder_of
from mindvl.model.weights.names import PREFIX, Piece, Role, names_in_files, own_names, place
from mindvl.model.weights.shards import Box

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightSource:
    """A checkpoint and what it fills of a MindVL.

    Args:
        name: hub id or folder.
        role: "vision" for the tower with its projector, "language", or "model" for a saved MindVL.
        allow_pickle_which_can_run_code: read `pytorch_model.bin` where there is no safetensors file.
    """

    name: str
    role: Role
    allow_pickle_which_can_run_code: bool = False

    def open(self) -> Checkpoint:
        """Its tensors; a hub id is fetched. ValueError where the files are not sound."""
        allowed = self.allow_pickle_which_can_run_code
        return open_checkpoint(folder_of(self.name, pickles=allowed), allow_pickle_which_can_run_code=allowed)


@dataclass(frozen=True)
class Account:
    """An open checkpoint, the place of each of its tensors, and the parameters that get more rows than it has."""

    checkpoint: Checkpoint
    pieces: list[Piece]
    grown: dict[str, int]
    """Embedding and output head: their names, and how many rows the file has."""


def account(model: nn.Module, own: dict[str, Tensor], source: WeightSource) -> Account:
    """Places for all tensors of a source in `own`, the model's state. ValueError lists the first few that do not fit.

    A second tensor for a tied parameter is dropped when it equals the first; the caller has to compare their values
    (`tied_pairs`).
    """
    checkpoint = source.open()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items() if name.startswith(PREFIX[source.role])}
    named = own_names(checkpoint.tensors, source.role)
    if source.role == "model":
        _check_token_ids(source, checkpoint.config, model.config)
    if source.role == "vision" and _other_projector(model, checkpoint, named):
        shapes, named = _without_projector(shapes), _without_projector(named)
    found = {name: place(key, name, shapes) for name, key in named.items()}
    pieces = [piece for piece in found.values() if piece is not None]
    unexpected = _unexpected(model, own, checkpoint, {name: named[name] for name, piece in found.items() if not piece})
    grown = _growth(model, own, checkpoint, pieces) if source.role == "language" else {}
    missing = _missing(own, shapes, pieces)
    differ = [line for piece in pieces if piece.name not in grown for line in _differs(checkpoint, piece, own)]
    if missing or unexpected or differ:
        raise ValueError(
            f"{source.name} does not hold this model: {_first(missing, 'keys missing')}, "
            f"{_first(unexpected, 'unexpected')}, {_first(differ, 'of another shape or type')}"
        )
    return Account(checkpoint, pieces, grown)


def _check_token_ids(source: WeightSource, theirs: dict[str, Any], ours: MindVLConfig) -> None:
    """Placeholders that have moved would make old embeddings mean something else."""
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        before, now = theirs.get(name), getattr(ours, name)
        if None not in (before, now) and before != now:
            raise ValueError(f"{source.name}: its {name} is {before}, but the tokenizer given here has it as {now}")


def say(message: str, *arguments: object) -> None:
    """One line of the log, from the first rank alone."""
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not ranks or torch.distributed.get_rank() == 0:
        log.warning(message, *arguments)


def _first(lines: list[str], what: str) -> str:
    return f"{len(lines)} {what}" + (f" (first: {lines[:3]})" if lines else "")


def _without_projector(every: dict) -> dict:
    return {name: it for name, it in every.items() if part_of(name) != "projector"}


def _other_projector(model: nn.Module, checkpoint: Checkpoint, named: dict[str, str]) -> bool:
    """Whether the source has no projector, or one that speaks to a language model of another width; says so."""
    kind = tower_kind(model.config.vision_config.model_type)
    if not kind.brings_projector and not any(part_of(name) == "projector" for name in named):
        say("projector starts random: the source has none")
        return True
    width = kind.output_width
    theirs = checkpoint.config.get("vision_config", checkpoint.config).get(width)
    ours = getattr(model.config.vision_config, width)
    if theirs is None or theirs == ours:
        return False
    say("projector starts random: source %d, language model %d", theirs, ours)
    return True


def _unexpected(model: nn.Module, own: dict[str, Tensor], checkpoint: Checkpoint, named: dict[str, str]) -> list[str]:
    """Names without a place, less those that have none by design.

    These are buffers that the model computes itself, what transformers' class ignores, and the layers behind the last
    that predict several tokens ahead (DeepSeek-V3's `num_nextn_predict_layers`), which no transformers class has.
    """
    computed = {name for name, _ in model.named_buffers()} - own.keys()
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or [])
    layers, ahead = (checkpoint.config.get(key) or 0 for key in ("num_hidden_layers", "num_nextn_predict_layers"))
    patterns += [r"\bdeepstack_merger_list\."]  # Qwen3-VL's, which only loads where the config has switched it off
    patterns += [rf"\.layers\.{number}\." for number in range(layers, layers + ahead)]
    no_use = {name for name, key in named.items() if any(re.search(pattern, key) for pattern in patterns)}
    if no_use:
        say("%s: left out %d tensors of no use here (%s, ...)", checkpoint.folder, len(no_use), min(no_use))
    return sorted(named.keys() - computed - no_use)


def _growth(model: nn.Module, own: dict[str, Tensor], checkpoint: Checkpoint, pieces: list[Piece]) -> dict[str, int]:
    """Embedding and head, where the model has more rows than the file; the rows of the file.

    Only a file with as many rows as its own config says may grow: another number is a mistake, and stays one.
    """
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    shapes = {piece.name: checkpoint.tensors[piece.key].shape for piece in pieces if id(own[piece.name]) in ends}
    return {
        name: shape[0]
        for name, shape in shapes.items()
        if shape[0] == checkpoint.config.get("vocab_size")
        and shape[0] < own[name].shape[0]
        and shape[1:] == own[name].shape[1:]
    }


def _missing(own: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], pieces: list[Piece]) -> list[str]:
    """Names that the files should have had. A tied tensor is there when one of its names is."""
    found = {(id(own[piece.name]), piece.box) for piece in pieces}
    missing = []
    for name, shape in shapes.items():
        if (id(own[name]), tuple((0, size) for size in shape)) in found:
            continue
        parts = [place(part, part, shapes) for part in names_in_files(name, shape)]
        absent = [part.key for part in parts if part and (id(own[name]), part.box) not in found]
        missing += [name] if len(absent) == len(parts) else absent
    return missing


def _differs(checkpoint: Checkpoint, piece: Piece, own: dict[str, Tensor]) -> Iterator[str]:
    stored, wanted = checkpoint.tensors[piece.key], own[piece.name]
    expected = tuple(stop - start for start, stop in piece.box)
    expected = expected[1:] if piece.of_expert else expected
    if tuple(stored.shape) != expected:
        yield f"{piece.key} has shape {tuple(stored.shape)}, the configured model {expected}"
    elif stored.dtype.is_floating_point != wanted.dtype.is_floating_point:
        yield f"{piece.key} is {stored.dtype}, the configured model's is {wanted.dtype}"


def tied_pairs(own: dict[str, Tensor], pieces: list[Piece]) -> Iterator[tuple[Piece, Piece]]:
    """Pieces that fill the same place, because the model ties what the files hold twice."""
    first: dict[tuple[int, Box], Piece] = {}
    for piece in pieces:
        other = first.setdefault((id(own[piece.name]), piece.box), piece)
        if other is not piece:
            yield other, piece
