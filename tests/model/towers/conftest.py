"""A tiny MindVL with each kind of tower, its weights so large that all matter, and samples cut for its patches."""

from __future__ import annotations

import pytest

TOWERS = {
    "qwen2_5_vl": {
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 40,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    },
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2},
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 40,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [],
    },
    "qwen3_5": {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 40, "num_position_embeddings": 64},
    "naflexvit": {
        "timm_model": "naflexvit_base_patch16_gap",
        "timm_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, "pos_embed_grid_size": [6, 6]},
    },
}


@pytest.fixture(scope="session")
def tower_spec(make_spec):
    """A ModelSpec whose tower is of a kind; keywords replace fields of its vision part."""

    def make(kind: str, **fields):
        spec = make_spec(tokenizer="bytes")
        spec.vision = {"model_type": kind, **TOWERS[kind], **fields}
        return spec

    return make


@pytest.fixture(scope="session")
def tower_model(tower_spec, tokenizer, enlivened):
    """A tiny MindVL that sees with a kind of tower."""
    from mindvl.model.mindvl import MindVL
    from mindvl.phases.model_spec import config_of

    def make(kind: str, **fields) -> MindVL:
        return enlivened(MindVL(config_of(tower_spec(kind, **fields), tokenizer)))

    return make


@pytest.fixture(scope="session")
def pack_for(conversation, encoder):
    """One pack of two samples with three pictures, cut into the patches of a model."""
    from mindvl.data.pack import pack_samples
    from mindvl.data.sample import PixelBudget, encode_sample

    def make(model, **settings):
        vision = model.config.vision_config
        side = model.config.pixel_factor
        budget = PixelBudget(side * side, 64 * side * side, patch=vision.patch_size, merge=vision.spatial_merge_size)
        samples = []
        for seed, sizes in enumerate([((2 * side, 5 * side),), ((side, 3 * side), (4 * side, 2 * side))]):
            messages, images = conversation("read it", "abc", sizes, seed=seed)
            samples.append(encode_sample(f"{seed}", "made", messages, images, encoder, budget, supervise="answers"))
        return pack_samples(
            samples,
            merge=vision.spatial_merge_size,
            window_tokens=model.config.window_tokens,
            **{"token_budget": 256, **settings},
        )

    return make
