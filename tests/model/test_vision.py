"""What holds of any tower in a pack, shown on Qwen2.5-VL's; each against its stock class is in towers/."""

import pytest
import torch

from mindvl.batch import ImageGrid
from mindvl.model.parts import train_only
from mindvl.model.vision import vision_inputs

GRIDS = [ImageGrid(1, 4, 10), ImageGrid(1, 2, 2), ImageGrid(1, 8, 6), ImageGrid(1, 6, 2)]


@pytest.fixture
def tower(make_model):
    return make_model().vision


def patches_of(grids, *, values=588, seed=0):
    return torch.randn(sum(grid.patches for grid in grids), values, generator=torch.Generator().manual_seed(seed))


def inputs_of(patches, grids):
    return vision_inputs(patches, grids, merge=2, window_tokens=2)


def test_a_picture_gives_bit_equal_features_whatever_its_neighbours_show(tower):
    patches, starts = patches_of(GRIDS), [0, 40, 44, 92]
    before = tower(inputs_of(patches, GRIDS)).split([grid.merged() for grid in GRIDS])
    patches[starts[2] : starts[3]] = 7.0
    after = tower(inputs_of(patches, GRIDS)).split([grid.merged() for grid in GRIDS])
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, True, False, True]


def test_a_frozen_tower_records_no_autograd_graph(make_model):
    model = make_model()
    train_only(model, ["projector"])
    recorded = []
    for block in model.vision.blocks:
        block.register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    features = model.vision(inputs_of(patches_of(GRIDS), GRIDS))
    assert recorded == [False, False, False] and features.requires_grad


def test_grids_that_do_not_describe_the_patches_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="describe 104 patches, but 100 were given"):
        inputs_of(patches_of(GRIDS)[:100], GRIDS)


def test_the_tower_does_not_write_its_attention_into_the_callers_config(make_model, make_config):
    config = make_config()
    before = config.vision_config._attn_implementation
    make_model()
    assert config.vision_config._attn_implementation == before
