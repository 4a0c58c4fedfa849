"""Qwen2.5-VL's tower: windows of 112x112 pixels in most blocks, whole pictures in a few (arXiv 2502.13923).

Its `visual.*` weights load key for key. The merger is RMSNorm, 2x2 patches, two linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.batch import VisionInputs
from mindvl.model.towers.kind import TowerKind
from mindvl.model.vision import in_reading_order, packed_config, use_packed_operators


class Qwen2_5VLTower(Qwen2_5_VisionTransformerPretrainedModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks."""

    def __init__(self, config: Qwen2_5_VLVisionConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        super().__init__(packed_config(config))
        use_packed_operators(self, image_mean=image_mean, image_std=image_std)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        """The stock forward pass, reading layout and lengths from `inputs` instead of working them out."""
        unit = self.spatial_merge_unit
        hidden = self.patch_embed(inputs.patches)
        hidden = _permute_blocks(hidden, inputs.window_index, unit)
        cos, sin = self.rotary_pos_emb(hidden, inputs.position_ids)
        positions = _permute_blocks(cos, inputs.window_index, unit), _permute_blocks(sin, inputs.window_index, unit)
        for layer, block in enumerate(self.blocks):
            lengths = inputs.image_lengths if layer in self.fullatt_block_indexes else inputs.window_lengths
            hidden = block(hidden, cu_seqlens=lengths, position_embeddings=positions)
        return in_reading_order(self.merger(hidden), inputs, merge=self.spatial_merge_size)


def _permute_blocks(rows: Float[Tensor, "patches dim"], index: Tensor, unit: int) -> Float[Tensor, "patches dim"]:
    """Reorder merge blocks of `unit` consecutive patches."""
    return rows.view(-1, unit * rows.shape[1]).index_select(0, index).view(rows.shape)


KIND = TowerKind(Qwen2_5_VLVisionConfig, Qwen2_5VLTower)
