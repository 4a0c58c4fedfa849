"""What a phase tells the strategy about its model: the parts that are gathered and computed together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from mindvl.model.mindvl import MindVL
    from mindvl.parallel.strategy import MindVLStrategy
    from mindvl.parallel.vision_balance import PictureBalance


def place(model: MindVL, strategy: Strategy | None) -> None:
    """Let a strategy that shards cut the model over its ranks; others take it as it is."""
    from mindvl.parallel.strategy import MindVLStrategy

    if not isinstance(strategy, MindVLStrategy):
        return
    from mindvl.model.moe import routers_of
    from mindvl.parallel.sharding import Units

    language = model.language_model
    units = Units(
        chains=(list(model.vision.blocks), list(language.base_model.layers)),
        alone=(model.vision.merger,),
        exact=tuple(routers_of(language).values()),
    )
    strategy.distribute(model, language, units)
    model.share_packs(strategy.meshes.context.get_group() if strategy.sizes.context > 1 else None)
    model.picture_balance = _picture_balance(model, strategy)


def _picture_balance(model: MindVL, strategy: MindVLStrategy) -> PictureBalance | None:
    """The exchange of pictures that the strategy asks for, with what they cost in this model."""
    import torch
    import torch.distributed as dist

    from mindvl.data.cost import CostModel
    from mindvl.model.flops import cost_coefficients
    from mindvl.model.vision import vision_inputs
    from mindvl.parallel.vision_balance import PictureBalance

    if strategy.vision_balance is None or strategy.sizes.data == 1:
        return None
    dtype = strategy.precision_plugin.compute_dtype or torch.float32
    trains = any(parameter.requires_grad for parameter in model.vision.blocks.parameters())
    return PictureBalance(
        strategy.vision_balance,
        strategy.meshes.data_group or dist.group.WORLD,
        cost=CostModel(**cost_coefficients(model.config)).vision,
        lay_out=partial(vision_inputs, merge=model.merge, window_tokens=model.config.window_tokens),
        merge=model.merge,
        feature_bytes=model.config.text_config.hidden_size * dtype.itemsize,
        passes=3 if trains else 1,
    )
