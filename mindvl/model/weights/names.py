"""Names in files -> names of MindVL's parameters, and the place of a file's tensor in a parameter.

    visual.blocks.0.attn.qkv.weight         Qwen2.5-VL   ->  vision.blocks.0.attn.qkv.weight
    model.visual.blocks.0.attn.qkv.weight   newer layout ->  vision.blocks.0.attn.qkv.weight
    blocks.0.attn.qkv.weight                bare tower   ->  vision.blocks.0.attn.qkv.weight
    model.layers.0.mlp.up_proj.weight       language     ->  language_model.model.layers.0.mlp.up_proj.weight

Files hold one matrix per expert and projection, the model in memory holds them stacked:

    mlp.experts.5.gate_proj.weight (I, H)   ->  rows 0..I of mlp.experts.gate_up_proj[5] (2 I, H)
    mlp.experts.5.up_proj.weight (I, H)     ->  rows I..2 I of the same
    mlp.experts.5.down_proj.weight (H, I)   ->  mlp.experts.down_proj[5] (H, I)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from mindvl.model.weights.shards import Box, whole

Role = Literal["vision", "language", "model"]
"""What a checkpoint fills: the tower with its projector, the language model, or all of a MindVL."""

PREFIX: dict[Role, str] = {"vision": "vision.", "language": "language_model.", "model": ""}
_IN_FILES: dict[Role, tuple[str, ...]] = {
    "vision": ("model.visual.", "visual.", "vision."),
    "language": ("language_model.",),
    "model": (),
}
_EXPERT = re.compile(r"(?P<experts>.*\.experts)\.(?P<number>\d+)\.(?P<kind>gate|up|down)_proj\.weight")
_STACKED = re.compile(r"(?P<experts>.*\.experts)\.(?P<kinds>gate_up|down)_proj")


@dataclass(frozen=True)
class Piece:
    """A tensor of a file and the place it fills in a parameter of the model."""

    key: str
    name: str
    box: Box
    of_expert: bool = False
    """The parameter is stacked: it has a first dimension, the number of the expert, that the file's tensor lacks."""


def own_names(keys: Iterable[str], role: Role) -> dict[str, str]:
    """Names under which MindVL looks for the tensors of a checkpoint, with their keys in the files.

    The tower of a whole vision-language model is the only part that is taken of it.
    """
    keys = list(keys)
    for prefix in _IN_FILES[role]:
        if any(key.startswith(prefix) for key in keys):
            return {PREFIX[role] + key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
    return {PREFIX[role] + key: key for key in keys}


def place(key: str, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Piece | None:
    """Where a tensor goes in parameters of these shapes, or None when they have no place for it."""
    if name in shapes:
        return Piece(key, name, whole(shapes[name]))
    match = _EXPERT.fullmatch(name)
    if match is None:
        return None
    number, kind = int(match["number"]), match["kind"]
    stacked = f"{match['experts']}.{'down' if kind == 'down' else 'gate_up'}_proj"
    shape = shapes.get(stacked, ())
    if len(shape) != 3 or number >= shape[0]:
        return None
    half = shape[1] // 2
    rows = {"gate": (0, half), "up": (half, 2 * half), "down": (0, shape[1])}[kind]
    return Piece(key, stacked, ((number, number + 1), rows, (0, shape[2])), of_expert=True)


def names_in_files(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """The names that together fill a parameter: one per expert and projection of stacked experts, else its own."""
    match = _STACKED.fullmatch(name)
    if match is None:
        yield name
        return
    for number in range(shape[0]):
        for kind in match["kinds"].split("_"):
            yield f"{match['experts']}.{number}.{kind}_proj.weight"
