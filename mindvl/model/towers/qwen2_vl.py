"""Qwen2-VL's tower: LayerNorm, a plain two-layer MLP, and whole pictures in every block (arXiv 2409.12191).

Its `visual.*` weights load key for key. `embed_dim` is the width inside the tower, `hidden_size` that of its output.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from mindvl.batch import VisionInputs
from mindvl.model.towers.kind import TowerKind
from mindvl.model.vision import in_reading_order, packed_config, use_packed_operators


class Qwen2VLTower(Qwen2VisionTransformerPretrainedModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks."""

    def __init__(self, config: Qwen2VLVisionConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        super().__init__(packed_config(config))
        use_packed_operators(self, image_mean=image_mean, image_std=image_std)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        """The stock forward pass, reading positions and lengths from `inputs` instead of working them out."""
        hidden = self.patch_embed(inputs.patches)
        positions = self.rotary_pos_emb(hidden, inputs.position_ids)
        for block in self.blocks:
            hidden = block(hidden, cu_seqlens=inputs.image_lengths, position_embeddings=positions)
        return in_reading_order(self.merger(hidden), inputs, merge=self.spatial_merge_size)


KIND = TowerKind(Qwen2VLVisionConfig, Qwen2VLTower, output_width="hidden_size")
