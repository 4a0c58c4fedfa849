"""The tower against the transformers class whose weights it loads."""

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.batch import ImageGrid
from mindvl.model.config import CLIP_MEAN, CLIP_STD
from mindvl.model.parts import train_only
from mindvl.model.vision import vision_inputs

GRIDS = [ImageGrid(1, 4, 10), ImageGrid(1, 2, 2), ImageGrid(1, 8, 6), ImageGrid(1, 6, 2)]


@pytest.fixture
def tower(make_model):
    return make_model().vision


@pytest.fixture
def stock(tower):
    config = type(tower.config)(**{**tower.config.to_dict(), "attn_implementation": None})
    config._attn_implementation = "eager"
    stock = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    assert list(stock.state_dict()) == list(tower.state_dict())
    stock.load_state_dict(tower.state_dict(), strict=True)
    return stock


def patches_of(grids, *, values=588, seed=0):
    return torch.randn(sum(grid.patches for grid in grids), values, generator=torch.Generator().manual_seed(seed))


def inputs_of(patches, grids):
    return vision_inputs(patches, grids, merge=2, window_tokens=2)


def doubled(still):
    return still.view(-1, 3, 1, 14, 14).expand(-1, -1, 2, -1, -1).reshape(len(still), -1)


def thw(grids):
    return torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids])


def assert_equal_to_1e_5(ours, theirs, name="features"):
    scale = theirs.abs().max()
    assert scale > 0, name
    assert (ours - theirs).abs().max() <= 1e-5 * scale, name


def test_unequal_pictures_in_one_pack_equal_the_stock_tower_forward_and_backward(tower, stock):
    patches = patches_of(GRIDS)
    ours = tower(inputs_of(patches, GRIDS))
    theirs = stock(doubled(patches), thw(GRIDS)).pooler_output
    assert_equal_to_1e_5(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in tower.named_parameters():
        assert_equal_to_1e_5(parameter.grad, gradients[name], name)


def test_a_video_beside_a_picture_equals_the_stock_tower(tower, stock):
    grids = [ImageGrid(3, 4, 6), ImageGrid(1, 2, 8)]
    patches = patches_of(grids, values=1176)
    assert_equal_to_1e_5(tower(inputs_of(patches, grids)), stock(patches, thw(grids)).pooler_output)


def test_bytes_equal_the_stock_tower_on_normalised_pixels(tower, stock):
    pixels = torch.randint(0, 256, (sum(grid.patches for grid in GRIDS), 588), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (CLIP_MEAN, CLIP_STD))
    floats = ((pixels.view(len(pixels), 3, -1) / 255 - mean) / std).flatten(1)
    assert_equal_to_1e_5(tower(inputs_of(pixels, GRIDS)), stock(doubled(floats), thw(GRIDS)).pooler_output)


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
