"""Qwen3.5's tower: Qwen3-VL's without deep stack, so that all of it has a place in a MindVL."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel

from mindvl.batch import VisionInputs
from mindvl.model.towers.kind import TowerKind
from mindvl.model.towers.qwen3_vl import features
from mindvl.model.vision import packed_config, use_packed_operators


class Qwen3_5Tower(Qwen3_5VisionModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks."""

    def __init__(self, config: Qwen3_5VisionConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        super().__init__(packed_config(config))
        use_packed_operators(self, image_mean=image_mean, image_std=image_std)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        return features(self, inputs)


KIND = TowerKind(Qwen3_5VisionConfig, Qwen3_5Tower)
