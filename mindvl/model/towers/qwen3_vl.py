"""Qwen3-VL's tower: patches of 16 pixels, learned positions beside rotary ones, whole pictures in every block.

Qwen3-VL also adds features of three inner blocks to the first layers of its language model ("deep stack"). A MindVL's
language model is any causal one and has no place for them, so a configuration must list no such blocks. What is left,
`visual.*` without `deepstack_merger_list`, loads key for key.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from mindvl.batch import VisionInputs
from mindvl.model.towers.kind import TowerKind
from mindvl.model.vision import in_reading_order, packed_config, picture_sizes, use_packed_operators
from mindvl.ops.position_table import sample_table


def features(tower: nn.Module, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
    """The stock forward pass, reading positions and lengths from `inputs` instead of working them out."""
    side = tower.num_grid_per_side
    hidden = tower.patch_embed(inputs.patches)
    learned = sample_table(
        tower.pos_embed.weight.view(side, side, -1),
        inputs.position_ids,
        picture_sizes(inputs),
        kernel="bilinear",
        align_corners=True,
    )
    hidden = hidden + learned.to(hidden.dtype)
    positions = tower.rotary_pos_emb(hidden, inputs.position_ids)
    for block in tower.blocks:
        hidden = block(hidden, cu_seqlens=inputs.image_lengths, position_embeddings=positions)
    return in_reading_order(tower.merger(hidden), inputs, merge=tower.spatial_merge_size)


class Qwen3VLTower(Qwen3VLVisionModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks."""

    def __init__(self, config: Qwen3VLVisionConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        super().__init__(packed_config(config))
        use_packed_operators(self, image_mean=image_mean, image_std=image_std)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        return features(self, inputs)


def check(config: Qwen3VLVisionConfig) -> None:
    """Refuse a tower whose inner features would have to enter the language model."""
    if list(config.deepstack_visual_indexes):
        raise ValueError(
            f"vision.deepstack_visual_indexes is {list(config.deepstack_visual_indexes)}, but a MindVL's language "
            "model has no layers that take in features of inner vision blocks; set it to [] for the tower without them"
        )


KIND = TowerKind(Qwen3VLVisionConfig, Qwen3VLTower, check=check)
