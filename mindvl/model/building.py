"""A MindVL from its configuration: built without memory, cut if it shall be, filled from checkpoints, the rest drawn.

In this order a process never holds more than its slices and one tensor, whatever the size of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from mindvl.model.config import MindVLConfig
from mindvl.model.initial import initialise
from mindvl.model.mindvl import MindVL
from mindvl.model.settings import DOWNLOAD, known_only
from mindvl.model.weights.accounting import WeightSource, say
from mindvl.model.weights.assembly import (
    PIXEL_FIELDS,
    Part,
    assembled_config,
    check_token_ids,
    has_tokenizer,
    read_pretrained_config,
    require_saved,
)
from mindvl.model.weights.fill import fill
from mindvl.model.weights.locate import folder_of
from mindvl.vision_tokens import add_vision_tokens


def build(
    config: MindVLConfig,
    sources: Sequence[WeightSource] = (),
    *,
    place: Callable[[MindVL], None] | None = None,
    dtype: torch.dtype | None = None,
) -> MindVL:
    """A model in training mode; what no source covers is drawn.

    `place` may cut the model while it has no memory, so that this process takes memory for its slices alone. Fresh
    weights depend on the global seed, not on how the model is cut. Without a dtype it is torch's default.
    """
    seed, before = torch.initial_seed(), torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        with torch.device("meta"):
            model = MindVL(config)
    finally:
        torch.set_default_dtype(before)
    if place is not None:
        place(model)
    device = torch.get_default_device()
    if device.type == "meta":
        return model  # shapes are all that was asked for
    model.to_empty(device=device)
    model.tie_weights()
    initialise(model, seed=seed, skip=fill(model, sources))
    return model


def reopen(
    origin: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    config: MindVLConfig | None = None,
    dtype: torch.dtype | None = None,
    allow_pickle_which_can_run_code: bool = False,
    **settings: Any,
) -> MindVL:
    """A saved MindVL in evaluation mode; what is not said anew is its own, its dtype too.

    ValueError when a tensor is missing, too many, or of another shape; when a file is damaged; and, with a tokenizer,
    when its placeholders are others.
    """
    known = ("config", "tokenizer", *PIXEL_FIELDS, *DOWNLOAD, "allow_pickle_which_can_run_code")
    said = known_only(settings, known, "a saved MindVL")
    download = {name: said.pop(name) for name in DOWNLOAD if name in said}
    folder = folder_of(origin, pickles=allow_pickle_which_can_run_code, **download)
    config = require_saved(folder) if config is None else copy.deepcopy(config)
    config._name_or_path = str(origin)
    for name, value in said.items():
        setattr(config, name, value)
    dtype = dtype or config.dtype or torch.float32
    for each in (config, config.vision_config, config.text_config):
        each.dtype = dtype  # the language model is built in that of its own configuration
    if tokenizer is not None:
        check_token_ids(config, tokenizer)
    model = build(config, [WeightSource(str(folder), "model", allow_pickle_which_can_run_code)], dtype=dtype).eval()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def assemble(
    vision: str | Path | dict[str, Any],
    language: str | Path | dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype | None = None,
    **fields: Any,
) -> MindVL:
    """A model in evaluation mode from a tower and a language model; `MindVL.from_pretrained` says what they may be."""
    said = known_only(fields, PIXEL_FIELDS, "a model of two parts")
    tower, text = Part.of("vision", vision), Part.of("language", language)
    if tokenizer is None:
        tokenizer = _own_tokenizer(text.pretrained)
    if dtype is None:
        dtype = (read_pretrained_config(text.pretrained).dtype if text.pretrained else None) or torch.float32
    config = assembled_config(tower, text, tokenizer, **said)
    return build(config, [*tower.weights(), *text.weights()], dtype=dtype).eval()


def _own_tokenizer(language: str | None) -> PreTrainedTokenizerBase:
    """The language model's, with vision tokens behind its last id where it has none."""
    if language is None:
        raise ValueError("a language model with random weights needs a tokenizer; give tokenizer=...")
    if not has_tokenizer(language):
        raise ValueError(
            f"{language} holds no tokenizer (no tokenizer.json, no tokenizer_config.json); give tokenizer=..."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder_of(language, weights=False), trust_remote_code=False)
    added = add_vision_tokens(tokenizer)
    if added:
        say("tokenizer of %s: added %s", language, ", ".join(f"{token} as {number}" for token, number in added.items()))
    return tokenizer
