"""What a phase tells the strategy about its model: the parts that are gathered and computed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from mindvl.model.mindvl import MindVL


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
