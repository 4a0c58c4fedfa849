"""One layer of each kind, and a pack without a token to spare."""

import pytest

from mindvl.phases.miniature import full_pack, miniature, on_meta

EVERYTHING = ("vision", "projector", "language")
SPARSE = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 5,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "mlp_only_layers": [0, 3],
}


def test_layers_that_are_alike_are_there_once(make_config):
    config = make_config(language=SPARSE, vision={"depth": 4, "fullatt_block_indexes": [1, 3]})
    model = on_meta(config, EVERYTHING)
    dense, sparse = model.language_model.base_model.layers[:2]
    window, whole = model.vision.blocks[:2]
    small = miniature(model)
    assert (small.tower, small.language) == ((0, 1, 0, 1), (0, 1, 1, 0, 1))
    assert list(model.vision.blocks) == [window, whole] and model.vision.fullatt_block_indexes == [1]
    assert list(model.language_model.base_model.layers) == [dense, sparse]


def test_nothing_takes_memory_and_what_is_frozen_is_known(make_config):
    model = on_meta(make_config(), ("projector",))
    assert all(parameter.is_meta for parameter in model.parameters())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(name.startswith("vision.merger.") for name in trained)


@pytest.mark.parametrize(
    ("ratio", "budget", "side", "pictures"), [(0.5, 1024, 8, 2), (0.5, 256, 8, 1), (0.0, 1024, 0, 0)]
)
def test_a_pack_is_full_of_tokens_and_of_pictures_as_large_as_they_may_be(ratio, budget, side, pictures, make_config):
    pack = full_pack(make_config(), tokens=256, patch_budget=budget, visual_ratio=ratio, supervised_ratio=0.25)
    assert len(pack.input_ids) == sum(pack.doc_lengths) == pack.num_tokens == 256
    assert pack.num_patches == pictures * 4 * side**2
    assert pack.num_supervised == pytest.approx(64, abs=2)
    assert pack.num_images == pictures
