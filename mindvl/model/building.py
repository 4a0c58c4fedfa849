"""A MindVL from its configuration: built without memory, cut if it shall be, filled from checkpoints, the rest drawn.

In this order a process never holds more than its slices and one tensor, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mindvl.model.config import MindVLConfig
from mindvl.model.initial import initialise
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.accounting import WeightSource
from mindvl.model.weights.assembly import Part, assembled_config, read_pretrained_config
from mindvl.model.weights.fill import fill
from mindvl.model.weights.locate import folder_of


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


def assemble(
    vision: str | dict[str, Any],
    language: str | dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype | Literal["auto"] = "auto",
    **fields: Any,
) -> MindVL:
    """A model in evaluation mode from a tower and a language model; `MindVL.from_pretrained` says what they may be."""
    tower, text = Part.of("vision", vision), Part.of("language", language)
    if tokenizer is None:
        if text.pretrained is None:
            raise ValueError("a language model with random weights needs a tokenizer; give tokenizer=...")
        tokenizer = AutoTokenizer.from_pretrained(folder_of(text.pretrained, weights=False), trust_remote_code=False)
    if dtype == "auto":
        dtype = (read_pretrained_config(text.pretrained).dtype if text.pretrained else None) or torch.float32
    config = assembled_config(tower, text, tokenizer, **fields)
    return build(config, [*tower.weights(), *text.weights()], dtype=dtype).eval()
