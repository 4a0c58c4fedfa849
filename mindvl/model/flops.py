"""Floating-point operations that the model must do for a pack: the numerator of model-FLOPs utilisation.

Counted are matrix products alone, two operations per multiply-add: weights times the rows they see, and attention over
the pairs that really attend (half of them where it is causal). The backward pass costs one product per input that
needs a gradient and one per weight that is trained, so frozen parts count for less. Recomputation counts for nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from mindvl.batch import PackedBatch
from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import part_of


def training_flops(model: MindVL, batch: PackedBatch) -> float:
    """FLOPs of one forward and backward pass over a pack, with the parts frozen as they are."""
    trained = dict.fromkeys(("vision", "projector", "language"), False)
    for name, parameter in model.named_parameters():
        trained[part_of(name)] |= parameter.requires_grad
    # A gradient flows into a part's inputs when something before it trains.
    flows = {"vision": False, "projector": trained["vision"], "language": trained["vision"] or trained["projector"]}
    forward = forward_flops(model, batch)
    total = 0.0
    for part, products in forward.items():
        for kind, flops in products.items():
            backward = 0
            if kind == "weights":
                backward = int(flows[part] or trained[part]) + int(trained[part])
            elif flows[part] or trained[part]:
                backward = 2
            total += flops * (1 + backward)
    return total


def forward_flops(model: MindVL, batch: PackedBatch) -> dict[str, dict[str, float]]:
    """FLOPs of a forward pass by part, split into products with weights and products of attention."""
    vision, text = model.config.vision_config, model.config.text_config
    tower, patches = _tower(model), batch.num_patches
    merged = patches / vision.spatial_merge_size**2
    rows, patch_kernel, vision_pairs = patches, 0, 0
    if batch.vision is not None:
        patch_kernel = tower.width * batch.vision.patches.shape[1]
        pictures, windows = (
            _real(lengths, patches) for lengths in (batch.vision.image_lengths, batch.vision.window_lengths)
        )
        rows += tower.prefix * len(pictures)
        vision_pairs = tower.full_blocks * sum((length + tower.prefix) ** 2 for length in pictures)
        vision_pairs += tower.window_blocks * sum(length**2 for length in windows)
    text_pairs = sum(length * (length + 1) / 2 for length in batch.doc_lengths[: len(batch.keys)])
    head = model.get_output_embeddings().weight.numel()
    return {
        "vision": {
            "weights": 2 * rows * _matrix_parameters(model.vision.blocks) + 2 * patches * patch_kernel,
            "attention": 4 * tower.width * vision_pairs,
        },
        "projector": {"weights": 2 * merged * _matrix_parameters(model.vision.merger)},
        "language": {
            "weights": 2 * batch.num_tokens * _matrix_parameters(model.language_model.base_model.layers)
            + 2 * batch.num_supervised * head,
            "attention": 4 * _heads_dim(text) * text.num_hidden_layers * text_pairs,
        },
    }


def cost_coefficients(config: MindVLConfig) -> dict[str, float]:
    """FLOPs of a forward pass per token, pair of tokens, patch and pair of patches, from sizes alone.

    The head is counted as if a quarter of the tokens were supervised: of what a plan balances, it depends least on it.
    """
    vision, text = config.vision_config, config.text_config
    with torch.device("meta"):
        model = MindVL(copy.deepcopy(config))
    tower, merge = _tower(model), vision.spatial_merge_size**2
    still_kernel = tower.width * vision.in_channels * vision.patch_size**2
    window_patches = (config.window_tokens * vision.spatial_merge_size) ** 2
    layers = _matrix_parameters(model.language_model.base_model.layers)
    return {
        "token": 2.0 * (layers + model.get_output_embeddings().weight.numel() / 4),
        "token_pair": 2.0 * _heads_dim(text) * text.num_hidden_layers,
        "patch": 2.0
        * (_matrix_parameters(model.vision.blocks) + still_kernel + _matrix_parameters(model.vision.merger) / merge)
        + 4.0 * tower.width * tower.window_blocks * window_patches,
        "patch_pair": 4.0 * tower.width * tower.full_blocks,
    }


class _Tower(NamedTuple):
    """What matters of a vision tower, whatever its class calls it."""

    width: int
    """Of all heads of its attention together."""
    full_blocks: int
    """Blocks that attend over whole pictures."""
    window_blocks: int
    prefix: int
    """Register and class tokens before each picture."""


def _tower(model: MindVL) -> _Tower:
    blocks = model.vision.blocks
    every = range(len(blocks))
    full = len(set(getattr(model.config.vision_config, "fullatt_block_indexes", every)) & set(every))
    prefix = getattr(model.vision, "num_prefix_tokens", 0)
    return _Tower(blocks[0].attn.proj.in_features, full, len(blocks) - full, prefix)


def _heads_dim(text) -> int:
    """Width of all heads; DeepSeek's queries and keys are wider than its values, so the mean of the two counts."""
    if hasattr(text, "qk_rope_head_dim"):
        return text.num_attention_heads * (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim) // 2
    return text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _real(lengths: Sequence[int], patches: int) -> Sequence[int]:
    """Segments of real patches; a pack of fixed shape ends with one of padding, which is no work."""
    return lengths[:-1] if sum(lengths) > patches else lengths


def _matrix_parameters(module: nn.Module) -> float:
    """Weights that each row is multiplied with; of experts, only the share that a token is sent to."""
    total = 0.0
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            total += parameter.numel()
        elif parameter.ndim == 3 and "experts" in name:
            total += parameter.numel() * _active_share(module)
    return total


def _active_share(module: nn.Module) -> float:
    """Experts chosen per token over all experts, from the first configuration found inside."""
    for child in module.modules():
        config = getattr(child, "config", None)
        if config is not None and hasattr(config, "num_experts_per_tok"):
            experts = getattr(config, "num_experts", None) or getattr(config, "n_routed_experts", None)
            return config.num_experts_per_tok / experts
    return 1.0
