"""Each of transformers' towers against its stock class, through the same packed interface."""

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from mindvl.batch import ImageGrid
from mindvl.data.cost import CostModel
from mindvl.data.module import PackedShards, Source
from mindvl.model.config import CLIP_MEAN, CLIP_STD
from mindvl.model.flops import cost_coefficients, forward_flops
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import PARTS, part_of, train_only
from mindvl.model.vision import vision_inputs
from mindvl.parallel.recompute import recompute
from mindvl.phases import Multitask

STOCK = {
    "qwen2_5_vl": Qwen2_5_VisionTransformerPretrainedModel,
    "qwen2_vl": Qwen2VisionTransformerPretrainedModel,
    "qwen3_vl": Qwen3VLVisionModel,
    "qwen3_5": Qwen3_5VisionModel,
}
GRIDS = [ImageGrid(1, 4, 10), ImageGrid(1, 2, 2), ImageGrid(1, 8, 6), ImageGrid(1, 12, 2)]

every_tower = pytest.mark.parametrize("kind", STOCK)


def stock_of(model):
    config = model.config.vision_config
    config = type(config)(**{**config.to_dict(), "attn_implementation": None})
    config._attn_implementation = "eager"
    stock = STOCK[config.model_type.removesuffix("_vision")](config).eval()
    assert list(stock.state_dict()) == list(model.vision.state_dict())
    stock.load_state_dict(model.vision.state_dict(), strict=True)
    return stock


def patches_of(model, grids, *, frames=1):
    values = 3 * frames * model.config.vision_config.patch_size**2
    return torch.randn(sum(grid.patches for grid in grids), values, generator=torch.Generator().manual_seed(0))


def inputs_of(model, patches, grids):
    return vision_inputs(patches, grids, merge=2, window_tokens=model.config.window_tokens)


def doubled(still):
    """A still picture as stock towers want it: both frames the same."""
    return still.unflatten(1, (3, 1, -1)).expand(-1, -1, 2, -1).flatten(1)


def thw(grids):
    return torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids])


def assert_equal_to_1e_5(ours, theirs, name="features"):
    scale = theirs.abs().max()
    assert scale > 0, name
    assert (ours - theirs).abs().max() <= 1e-5 * scale, name


@every_tower
def test_unequal_pictures_in_one_pack_equal_the_stock_tower_forward_and_backward(kind, tower_model):
    model = tower_model(kind)
    stock, patches = stock_of(model), patches_of(model, GRIDS)
    ours = model.vision(inputs_of(model, patches, GRIDS))
    theirs = stock(doubled(patches), thw(GRIDS)).pooler_output
    assert_equal_to_1e_5(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in model.vision.named_parameters():
        assert_equal_to_1e_5(parameter.grad, gradients[name], name)


@every_tower
def test_each_picture_of_a_pack_equals_the_stock_tower_on_that_picture_alone(kind, tower_model):
    model = tower_model(kind)
    stock, patches = stock_of(model), patches_of(model, GRIDS)
    ours = model.vision(inputs_of(model, patches, GRIDS)).split([grid.merged() for grid in GRIDS])
    for grid, part, features in zip(GRIDS, patches.split([grid.patches for grid in GRIDS]), ours, strict=True):
        assert_equal_to_1e_5(features, stock(doubled(part), thw([grid])).pooler_output)


@every_tower
def test_a_video_beside_a_picture_equals_the_stock_tower(kind, tower_model):
    model, grids = tower_model(kind), [ImageGrid(3, 4, 6), ImageGrid(1, 2, 8)]
    patches = patches_of(model, grids, frames=2)
    ours = model.vision(inputs_of(model, patches, grids))
    assert_equal_to_1e_5(ours, stock_of(model)(patches, thw(grids)).pooler_output)


@every_tower
def test_bytes_equal_the_stock_tower_on_normalised_pixels(kind, tower_model):
    model = tower_model(kind)
    pixels = torch.randint(0, 256, patches_of(model, GRIDS).shape, dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (CLIP_MEAN, CLIP_STD))
    floats = ((pixels.view(len(pixels), 3, -1) / 255 - mean) / std).flatten(1)
    theirs = stock_of(model)(doubled(floats), thw(GRIDS)).pooler_output
    assert_equal_to_1e_5(model.vision(inputs_of(model, pixels, GRIDS)), theirs)


@every_tower
def test_the_padding_of_a_pack_of_fixed_shape_changes_no_loss_and_no_gradient(kind, tower_model, pack_for):
    model = tower_model(kind)
    losses, gradients = [], []
    for fixed_shapes in (False, True):
        model.zero_grad()
        loss = model(packed=pack_for(model, fixed_shapes=fixed_shapes)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.vision.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert_equal_to_1e_5(*gradients, "gradient")


@every_tower
def test_a_model_with_this_tower_comes_back_from_its_folder(kind, tower_model, pack_for, tmp_path):
    model = tower_model(kind)
    model.save_pretrained(tmp_path)
    back = MindVL.from_pretrained(tmp_path)
    assert type(back.vision) is type(model.vision)
    pack = pack_for(model)
    assert torch.equal(back.eval()(packed=pack).loss, model(packed=pack).loss)


@every_tower
def test_recomputing_blocks_in_the_backward_pass_changes_no_gradient(kind, tower_model, pack_for):
    model = tower_model(kind).train()
    pack, gradients = pack_for(model), []
    for again in (False, True):
        if again:
            recompute(model.vision.blocks, "full")
        model.zero_grad()
        model(packed=pack).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.vision.parameters()]))
    assert torch.equal(*gradients)


@every_tower
def test_tower_and_projector_train_apart(kind, tower_model, pack_for):
    model = tower_model(kind)
    pack = pack_for(model)
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS)
    for part in ("vision", "projector"):
        train_only(model, [part])
        model.zero_grad()
        model(packed=pack).loss.backward()
        moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == {name for name, _ in model.named_parameters() if part_of(name) == part}


@every_tower
def test_the_predicted_cost_of_pictures_is_the_flops_of_the_tower(kind, tower_model, pack_for):
    model = tower_model(kind)
    cost, pack = CostModel(**cost_coefficients(model.config)), pack_for(model)
    flops = forward_flops(model, pack)
    predicted = cost.vision(pack.vision.grid_thw.prod(dim=1).numpy()).sum()
    windows = 0.2 if kind == "qwen2_5_vl" else 1e-6  # windows at a picture's edge are smaller
    assert predicted == pytest.approx(sum(flops["vision"].values()) + flops["projector"]["weights"], rel=windows)
    padded = forward_flops(model, pack_for(model, fixed_shapes=True))
    assert padded["vision"] == flops["vision"]


@every_tower
def test_blocks_of_the_tower_are_the_units_that_shards_are_made_of(kind, tower_model):
    model = tower_model(kind)
    assert {type(block).__name__ for block in model.vision.blocks} <= model._no_split_modules


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_5"])
def test_a_phase_trains_on_shards_with_patches_of_this_tower(kind, tower_spec, corpus):
    import lightning as L

    shards = PackedShards({"ocr": Source(str(corpus / "train" / "ocr-*.tar"))}, sequence_length=256, workers=0)
    phase, sizes = Multitask(tower_spec(kind)), []
    phase.on_train_batch_start = lambda batch, *_: sizes.append(batch.vision.patches.shape[1])
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(phase, shards)
    assert sizes == [{"qwen2_vl": 588, "qwen3_5": 768}[kind]] * 2
    assert trainer.callback_metrics["train/loss"].item() < 10
