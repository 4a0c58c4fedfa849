"""A model with one layer of each kind, which tells everything about the whole: sixty equal layers are as good as one.

Layers are of one kind where their classes, the shapes of their parameters and what trains are the same, and blocks of
the tower where they also attend over the same (windows or whole pictures). DeepSeek-V3 under Qwen2.5-VL's tower:

    tower       32 blocks      0 0 0 0 0 0 0 1 ...        kind 1 attends over whole pictures
    language    61 layers      0 0 0 1 1 1 1 1 ...        kind 1 has experts

Models here are on meta: they have sizes and no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from mindvl.batch import PackedBatch
    from mindvl.model.config import MindVLConfig
    from mindvl.model.mindvl import MindVL
    from mindvl.phases.model_spec import ModelSpec


@dataclass(frozen=True)
class Miniature:
    """`model` holds the first layer of each kind; `tower` and `language` are the kinds of the whole model's layers."""

    model: MindVL
    tower: tuple[int, ...]
    language: tuple[int, ...]


def sizes_of(spec: ModelSpec) -> MindVLConfig:
    """The configuration of a spec without its tokenizer, which a plan does not need.

    Parts from elsewhere are looked up; where that fails and the spec names the part's `model_type`, the sizes that it
    names are taken. Raises ValueError where neither is to be had.
    """
    from mindvl.model.config import MindVLConfig
    from mindvl.phases.model_spec import parts_of

    is_there = spec.start_from is not None and (Path(spec.start_from) / "config.json").is_file()
    parts, budget = parts_of(spec if is_there else replace(spec, start_from=None))
    budget = {name: value if (said := getattr(spec, name)) is None else said for name, value in budget.items()}
    vision, language = (_fields(part) for part in parts)
    if "vocab_size" not in language and spec.tokenizer == "bytes":
        from mindvl.data.tokenizer import byte_tokenizer

        language["vocab_size"] = -(-len(byte_tokenizer()) // 16) * 16
    return MindVLConfig(vision, language, image_token_id=0, **budget)


def _fields(part: Any) -> dict[str, Any]:
    from mindvl.model.towers import tower_kind

    try:
        found = part.config()
    except ValueError:
        if "model_type" not in part.fields:
            raise
        return dict(part.fields)
    if part.role == "vision" and part.pretrained is not None:
        width = tower_kind(found["model_type"]).output_width
        if width not in part.fields:
            found.pop(width, None)
    return found


def on_meta(config: MindVLConfig, trains: Sequence[str], spec: ModelSpec | None = None) -> MindVL:
    """The whole model without memory, its parts trained or frozen, with the spec's adapters if it has any."""
    from mindvl.model.lora import with_adapters
    from mindvl.model.mindvl import MindVL
    from mindvl.model.parts import train_only

    with torch.device("meta"):
        model = MindVL(config)
        if spec is not None and spec.lora is not None:
            with_adapters(spec.lora)(model)
    train_only(model, trains)
    return model


def miniature(model: MindVL) -> Miniature:
    """Drop all layers but the first of each kind, in place."""
    tower, layers = model.vision, model.language_model.base_model
    whole_pictures = set(getattr(tower, "fullatt_block_indexes", ()))
    kinds, firsts = _kinds([(_shape(block), number in whole_pictures) for number, block in enumerate(tower.blocks)])
    tower.blocks = nn.ModuleList([tower.blocks[first] for first in firsts])
    if whole_pictures:
        tower.fullatt_block_indexes = [new for new, first in enumerate(firsts) if first in whole_pictures]
    language_kinds, firsts = _kinds([_shape(layer) for layer in layers.layers])
    layers.layers = nn.ModuleList([layers.layers[first] for first in firsts])
    return Miniature(model, kinds, language_kinds)


def _kinds(shapes: Sequence[Any]) -> tuple[tuple[int, ...], list[int]]:
    """The number of each one's kind, and the place of the first of each kind."""
    firsts: dict[Any, int] = {}
    for place, shape in enumerate(shapes):
        firsts.setdefault(shape, place)
    numbers = {shape: number for number, shape in enumerate(firsts)}
    return tuple(numbers[shape] for shape in shapes), list(firsts.values())


def _shape(layer: nn.Module) -> tuple:
    parameters = ((name, tuple(each.shape), each.requires_grad) for name, each in layer.named_parameters())
    return type(layer), tuple(parameters)


def full_pack(
    config: MindVLConfig, *, tokens: int, patch_budget: int, visual_ratio: float, supervised_ratio: float
) -> PackedBatch:
    """A pack without a token to spare: pictures as large as they may be, a document around each, and targets.

    `visual_ratio` of the tokens are visual, as far as `patch_budget` goes; `supervised_ratio` of all have a target.
    """
    from mindvl.batch import ImageGrid
    from mindvl.data.pack import pack_samples
    from mindvl.data.sample import EncodedSample

    vision = config.vision_config
    merge, pixels = vision.spatial_merge_size, vision.in_channels * vision.patch_size**2
    visual = min(int(tokens * visual_ratio), patch_budget // merge**2)
    side = int(min(visual, config.max_pixels // (vision.patch_size * merge) ** 2) ** 0.5)
    pictures = visual // side**2 if side else 0
    grid = ImageGrid(1, side * merge, side * merge)
    documents = max(1, pictures)
    samples = []
    for number in range(documents):
        length = tokens // documents + (number < tokens % documents)
        mine = [grid] * (number < pictures)
        targets = np.full(length, -1, np.int64)
        targets[length - int(supervised_ratio * length) - 1 : -1] = 1
        ids = np.ones(length, np.int64)
        shown = np.arange(sum(each.merged(merge) for each in mine))
        ids[shown] = config.image_token_id
        patches = np.zeros((sum(each.patches for each in mine), pixels), np.uint8)
        samples.append(EncodedSample(str(number), "plan", ids, targets, shown, patches, mine))
    return pack_samples(samples, token_budget=tokens, merge=merge, window_tokens=config.window_tokens)
