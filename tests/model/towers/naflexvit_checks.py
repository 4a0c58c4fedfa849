"""timm's NaFlexViT as a tower, against timm's own padded forward pass; run by test_naflexvit.py where timm is."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from mindvl.batch import ImageGrid
from mindvl.data.cost import CostModel
from mindvl.data.module import PackedShards, Source
from mindvl.model.building import assemble
from mindvl.model.config import MindVLConfig
from mindvl.model.flops import cost_coefficients, forward_flops
from mindvl.model.initial import initialise
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import PARTS, part_of, train_only
from mindvl.model.vision import vision_inputs
from mindvl.parallel.recompute import recompute
from mindvl.phases import Multitask

GRIDS = [ImageGrid(1, 4, 10), ImageGrid(1, 2, 2), ImageGrid(1, 8, 6), ImageGrid(1, 12, 2)]
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "pos_embed_grid_size": [6, 6]}
MODELS = {
    "naflexvit_base_patch16_gap": {},
    "naflexvit_base_patch16_par_gap": {},
    "naflexvit_base_patch16_parfac_gap": {},
    "naflexvit_base_patch16_siglip": {},
    "naflexvit_so150m2_patch16_reg1_map": {},
    "naflexvit_base_patch16_radio_v3": {},
    "naflexvit_huge_patch16_radio_v4": {"pos_embed_grid_size": [16, 16]},
    "naflexvit_base_patch16_map": {"qk_norm": True, "pre_norm": True, "embed_norm_layer": "layernorm"},
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def model_of(tower_model):
    return lambda name="naflexvit_base_patch16_gap", **args: tower_model(
        "naflexvit", timm_model=name, timm_args={**SMALL, **MODELS[name], **args}
    )


def inputs_of(model, patches, grids=GRIDS):
    return vision_inputs(patches, grids, merge=2, window_tokens=model.config.window_tokens)


def patches_of(grids=GRIDS):
    return torch.randn(sum(grid.patches for grid in grids), 768, generator=torch.Generator().manual_seed(0))


def stock_of(model):
    """timm's own model with the tower's weights: the same names, in the same order."""
    config = model.config.vision_config
    stock = timm.create_model(config.timm_model, num_classes=0, global_pool="", **config.timm_args).eval()
    stock.fc_norm = torch.nn.Identity()
    held = {name: tensor for name, tensor in model.vision.state_dict().items() if not name.startswith("merger.")}
    assert list(held) == list(stock.state_dict())
    stock.load_state_dict(held, strict=True)
    return stock


def padded_features(stock, patches, grids):
    """Features of all pictures by timm's forward pass on a padded batch, in merge-block order."""
    longest = max(grid.patches for grid in grids)
    batch = torch.zeros(len(grids), longest, 768)
    places = torch.zeros(len(grids), longest, 2, dtype=torch.long)
    valid = torch.zeros(len(grids), longest, dtype=torch.bool)
    orders = []
    for row, (grid, part) in enumerate(zip(grids, patches.split([grid.patches for grid in grids]), strict=True)):
        number = np.arange(grid.patches).reshape(grid.height // 2, grid.width // 2, 2, 2)
        reading_order = torch.from_numpy(number.swapaxes(1, 2).reshape(-1))
        channels_last = part.view(-1, 3, 256).transpose(1, 2).reshape(-1, 768)
        batch[row, : grid.patches] = channels_last[reading_order]
        places[row, : grid.patches] = torch.cartesian_prod(torch.arange(grid.height), torch.arange(grid.width))
        valid[row, : grid.patches] = True
        orders.append(reading_order.argsort())
    features = stock.forward_features(batch, patch_coord=places, patch_valid=valid)["patches"]
    features = features[:, stock.num_prefix_tokens :]
    return torch.cat([features[row][order] for row, order in enumerate(orders)])


def assert_equal_to_1e_5(ours, theirs, name="features"):
    scale = theirs.abs().max()
    assert scale > 0, name
    assert (ours - theirs).abs().max() <= 1e-5 * scale, name


@every_model
def test_unequal_pictures_in_one_pack_equal_timms_padded_batch_forward_and_backward(name, model_of):
    model = model_of(name)
    stock, patches = stock_of(model), patches_of()
    ours = model.vision.patch_features(inputs_of(model, patches))
    theirs = padded_features(stock, patches, GRIDS)
    assert_equal_to_1e_5(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in model.vision.named_parameters():
        if not name.startswith("merger.") and not name.endswith("k_norm.bias"):  # zero: softmax does not see it
            assert_equal_to_1e_5(parameter.grad, gradients[name], name)


def test_features_of_the_tower_are_those_of_timm_through_the_projector(model_of):
    model, patches = model_of(), patches_of()
    theirs = model.vision.merger(padded_features(stock_of(model), patches, GRIDS))
    assert_equal_to_1e_5(model.vision(inputs_of(model, patches)), theirs)


def test_each_picture_of_a_pack_equals_that_picture_alone(model_of):
    model, patches = model_of(), patches_of()
    packed = model.vision(inputs_of(model, patches)).split([grid.merged() for grid in GRIDS])
    for grid, part, features in zip(GRIDS, patches.split([grid.patches for grid in GRIDS]), packed, strict=True):
        assert_equal_to_1e_5(features, model.vision(inputs_of(model, part, [grid])))


def test_frames_of_a_video_are_pictures_of_their_own(model_of):
    model, frames = model_of(), [ImageGrid(1, 4, 6)] * 3
    patches = patches_of(frames)
    together = model.vision(inputs_of(model, patches, [ImageGrid(3, 4, 6)]))
    assert torch.equal(together, model.vision(inputs_of(model, patches, frames)))


def test_patches_of_two_frames_are_refused_with_both_numbers(model_of):
    model = model_of()
    with pytest.raises(ValueError, match="a patch has 1536 values; the tower takes 768"):
        model.vision(inputs_of(model, torch.randn(24, 1536), [ImageGrid(1, 4, 6)]))


def test_bytes_equal_normalised_pixels(model_of):
    model = model_of()
    pixels = torch.randint(0, 256, patches_of().shape, dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (model.config.image_mean, model.config.image_std))
    floats = ((pixels.view(len(pixels), 3, -1) / 255 - mean) / std).flatten(1)
    assert_equal_to_1e_5(model.vision(inputs_of(model, pixels)), model.vision(inputs_of(model, floats)))


def test_the_padding_of_a_pack_of_fixed_shape_changes_no_loss_and_no_gradient(model_of, pack_for):
    model, losses, gradients = model_of(), [], []
    for fixed_shapes in (False, True):
        model.zero_grad()
        loss = model(packed=pack_for(model, fixed_shapes=fixed_shapes)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.vision.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert_equal_to_1e_5(*gradients, "gradient")


def test_tower_and_projector_train_apart_and_wholly(model_of, pack_for):
    model = model_of()
    pack = pack_for(model)
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS)
    for part in ("vision", "projector"):
        train_only(model, [part])
        model.zero_grad()
        model(packed=pack).loss.backward()
        moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == {name for name, _ in model.named_parameters() if part_of(name) == part}


def test_a_folder_of_timms_own_fills_the_tower_and_leaves_the_projector_random(tokenizer, tmp_path, caplog):
    stock = timm.create_model("naflexvit_base_patch16_gap", num_classes=3, **SMALL).eval()
    save_file(stock.state_dict(), tmp_path / "model.safetensors")
    pixels = {"mean": [0.5] * 3, "std": [0.25] * 3}
    saved = {"architecture": "naflexvit_base_patch16_gap", "model_args": SMALL, "pretrained_cfg": pixels}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    language = {
        "model_type": "qwen3",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    model = assemble({"pretrained": str(tmp_path)}, language, tokenizer)
    assert "the source has none" in caplog.text and "left out 4 tensors of no use here (vision.fc_norm" in caplog.text
    assert model.config.image_mean == pixels["mean"] and model.config.image_std == pixels["std"]
    patches = patches_of()
    assert_equal_to_1e_5(model.vision.patch_features(inputs_of(model, patches)), padded_features(stock, patches, GRIDS))


def test_weights_of_another_size_are_refused(tokenizer, tmp_path):
    stock = timm.create_model("naflexvit_base_patch16_gap", num_classes=3, **SMALL)
    save_file(stock.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "naflexvit_base_patch16_gap", "model_args": {**SMALL, "depth": 3}})
    )
    with pytest.raises(ValueError, match=r"does not hold this model: \d+ keys missing \(first: \['vision.blocks.2"):
        assemble(str(tmp_path), {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1}, tokenizer)


def test_a_model_with_this_tower_comes_back_from_its_folder(model_of, pack_for, tmp_path):
    model = model_of()
    model.save_pretrained(tmp_path)
    pack = pack_for(model)
    assert torch.equal(MindVL.from_pretrained(tmp_path).eval()(packed=pack).loss, model(packed=pack).loss)


def test_recomputing_blocks_in_the_backward_pass_changes_no_gradient(model_of, pack_for):
    model = model_of().train()
    pack, gradients = pack_for(model), []
    for again in (False, True):
        if again:
            recompute(model.vision.blocks, "full")
        model.zero_grad()
        model(packed=pack).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.vision.parameters()]))
    assert torch.equal(*gradients)


def test_the_predicted_cost_of_pictures_is_the_flops_of_the_tower_but_for_its_registers(model_of, pack_for):
    for registers, tolerance in ((0, 1e-6), (4, 0.2)):
        model = model_of(reg_tokens=registers)
        cost, pack = CostModel(**cost_coefficients(model.config)), pack_for(model)
        flops = forward_flops(model, pack)
        predicted = cost.vision(pack.vision.grid_thw.prod(dim=1).numpy()).sum()
        counted = sum(flops["vision"].values()) + flops["projector"]["weights"]
        assert predicted == pytest.approx(counted, rel=tolerance)
        assert (predicted < counted) == (registers > 0)
        assert forward_flops(model, pack_for(model, fixed_shapes=True))["vision"] == flops["vision"]


def test_fresh_weights_are_finite_and_layer_scales_as_timm_sets_them(model_of):
    config = model_of().config
    with torch.device("meta"):
        model = MindVL(config)
    model.to_empty(device="cpu")
    initialise(model, seed=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (model.vision.blocks[1].ls1.gamma == 1e-5).all()
    assert model.vision.embeds.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.vision.merger.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_blocks_of_the_tower_are_the_units_that_shards_are_made_of(model_of):
    model = model_of()
    assert {type(block).__name__ for block in model.vision.blocks} <= model._no_split_modules


def test_the_whole_of_timms_own_model_is_described_without_memory():
    language = {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 1, "vocab_size": 64}
    cost = cost_coefficients(MindVLConfig({"model_type": "naflexvit"}, language, image_token_id=1))
    blocks, kernel, projector = 12 * 12 * 768**2, 768 * 768, (3072 * 3072 + 3072 * 1024) / 4
    assert cost["patch"] == 2 * (blocks + kernel + projector) and cost["patch_pair"] == 4 * 768 * 12


@pytest.mark.parametrize(
    ("vision", "complaint"),
    [
        (
            {"timm_model": "naflexvit_tiny"},
            "naflexvit_tiny, which timm does not know; it has naflexvit_base_patch16_gap",
        ),
        ({"timm_model": "resnet18", "timm_args": {}}, "resnet18"),
        ({"timm_args": {**SMALL, "patch_size": 8}}, r"patches of \(8, 8\) pixels, vision.patch_size is 16"),
        ({"timm_args": {**SMALL, "embedding": 8}}, "timm refuses vision.timm_args for naflexvit_base_patch16_gap"),
        ({"timm_args": {**SMALL, "rope_type": "axial"}}, "has rotary positions, blocks of class EvaBlock"),
        ({"timm_args": {**SMALL, "drop_path_rate": 0.1}}, "has stochastic depth, which packed pictures cannot use"),
        ({"timm_args": {**SMALL, "attn_drop_rate": 0.1}}, "has attention dropout"),
        ({"timm_args": {**SMALL, "patch_drop_rate": 0.1}}, "has patch dropout"),
        ({"timm_args": {**SMALL, "pos_embed_use_grid_sample": True}}, "has positions read by grid_sample"),
        ({"timm_args": {**SMALL, "pos_embed_interp_mode": "nearest"}}, "has positions read by nearest"),
        ({"timm_args": {**SMALL, "attn_layer": "diff"}}, "has attention of class DiffAttention"),
    ],
)
def test_what_packed_pictures_cannot_use_is_refused_by_name(vision, complaint, tower_model):
    with pytest.raises(ValueError, match=complaint):
        tower_model("naflexvit", **vision)


def test_a_phase_trains_on_shards_with_this_tower(tower_spec, corpus):
    import lightning as L

    shards = PackedShards({"ocr": Source(str(corpus / "train" / "ocr-*.tar"))}, sequence_length=256, workers=0)
    phase, sizes = Multitask(tower_spec("naflexvit")), []
    phase.on_train_batch_start = lambda batch, *_: sizes.append(batch.vision.patches.shape[1])
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"),
        False,
    )
    trainer = L.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, num_sanity_val_steps=0, **quiet)
    trainer.fit(phase, shards)
    assert sizes == [768, 768] and trainer.callback_metrics["train/loss"].item() < 10
