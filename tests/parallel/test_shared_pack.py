"""A pack that two ranks share: every tower, packs of fixed shape, and what cannot be shared."""

import pytest
import torch
import torch.distributed as dist

from mindvl.model.mindvl import MindVL
from mindvl.model.sharing import own_share
from mindvl.ops.exchange import SplitLengths, heads_for_rows, split_of, split_rows
from mindvl.parallel.pretend import pretend_world
from mindvl.phases.model_spec import config_of

TOWERS = {
    "qwen2_5_vl": {"depth": 3, "hidden_size": 32, "intermediate_size": 40, "fullatt_block_indexes": [1]},
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "mlp_ratio": 2},
    "qwen3_5": {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_position_embeddings": 64},
}


@pytest.fixture(scope="module")
def packs(conversation, encoder):
    """Two samples with three pictures as a pack of fixed shape, cut for a model; and one of a single visual token."""
    from mindvl.data.pack import pack_samples
    from mindvl.data.sample import PixelBudget, encode_sample

    def make(config, *sizes, **settings):
        side, vision = config.pixel_factor, config.vision_config
        budget = PixelBudget(side * side, 64 * side * side, patch=vision.patch_size, merge=2)
        samples = []
        for seed, pictures in enumerate(sizes):
            in_pixels = tuple((side * height, side * width) for height, width in pictures)
            messages, images = conversation("read it", "abc", in_pixels, seed=seed)
            samples.append(encode_sample(f"{seed}", "made", messages, images, encoder, budget, supervise="answers"))
        return pack_samples(samples, merge=2, window_tokens=config.window_tokens, **{"token_budget": 256, **settings})

    return make


@pytest.fixture(scope="module")
def models(make_spec, tokenizer, packs):
    found = {}
    for kind, fields in TOWERS.items():
        spec = make_spec()
        spec.vision = {"model_type": kind, "num_heads": 2, "initializer_range": 0.1, **fields}
        torch.manual_seed(3)
        model = MindVL(config_of(spec, tokenizer)).eval()
        found[kind] = model, packs(model.config, ((2, 5),), ((1, 3), (4, 2)))
        found[f"{kind} fixed"] = model, packs(model.config, ((2, 5),), ((1, 3), (4, 2)), fixed_shapes=True)
    found["one visual token"] = model, packs(model.config, ((1, 1),))
    return found


@pytest.fixture(scope="module")
def results(models, tmp_path_factory, run_script):
    folder = tmp_path_factory.mktemp("shared pack")
    packed = {name: (model.config, model.state_dict(), pack) for name, (model, pack) in models.items()}
    torch.save(packed, folder / "models")
    run = run_script("shared_pack_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return [torch.load(folder / f"{rank}.result") for rank in range(2)]


NAMES = [*TOWERS, *(f"{kind} fixed" for kind in TOWERS), "one visual token"]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_have_the_loss_and_together_the_gradients_of_one(name, models, results):
    model, pack = models[name]
    model.zero_grad()
    loss = model(packed=pack).loss
    loss.backward()
    each = model(packed=pack, each_loss=True).loss
    for rank in range(2):
        ours = results[rank][name]
        assert ours["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
        assert torch.allclose(ours["each"], each, rtol=1e-5, atol=1e-6)
    assert each.count_nonzero() > 3
    for key, parameter in model.named_parameters():
        gradient = results[0][name]["gradients"][key]
        assert (gradient - parameter.grad).abs().max() <= 1e-5 * max(1, parameter.grad.abs().max()), key


def test_ranks_share_tokens_and_whole_merge_blocks_and_keep_all_bounds(models):
    model, pack = models["qwen2_5_vl"]
    with pretend_world(2, rank=1):
        own = own_share(pack, dist.group.WORLD, merge=2)
    tokens, half = len(pack.input_ids), len(pack.input_ids) // 2
    assert torch.equal(own.input_ids, pack.input_ids[half:]) and len(own.position_ids) == tokens - half
    assert own.doc_lengths == pack.doc_lengths and split_of(own.doc_lengths).sizes == (half, tokens - half)
    assert (own.input_ids[own.supervised_index + 1] == own.targets).all()
    assert (own.input_ids[own.image_index] == model.config.image_token_id).all()
    blocks = len(pack.vision.window_index)
    order = pack.vision.window_index[blocks // 2 :]
    patches = pack.vision.patches.unflatten(0, (-1, 4))[order].flatten(0, 1)
    assert torch.equal(own.vision.patches, patches)
    assert split_of(pack.doc_lengths) is None


def test_shares_differ_by_one_unit_at_most():
    with pretend_world(3):
        assert split_rows(28, dist.group.WORLD, unit=4).sizes == (8, 8, 12)
        assert split_rows(4, dist.group.WORLD, unit=4).sizes == (0, 0, 4)


def test_heads_that_do_not_divide_are_refused_with_both_numbers(models):
    states = torch.zeros(2, 4, 8)
    with pretend_world(3):
        lengths = SplitLengths((6,), split_rows(6, dist.group.WORLD))
        with pytest.raises(ValueError, match=r"3 ranks share .* do not divide 4 attention heads"):
            heads_for_rows(states, states, states, split_of(lengths))
        with pytest.raises(ValueError, match=r"context is 3, which does not divide 2 attention heads of the tower"):
            models["qwen2_vl"][0].share_packs(dist.group.WORLD)


def test_a_pack_with_fewer_tokens_than_ranks_is_refused_with_both_numbers(models):
    pack = models["qwen2_vl"][1]
    tokens = len(pack.input_ids)
    with pretend_world(tokens + 1), pytest.raises(ValueError, match=f"context is {tokens + 1}, .* holds {tokens} tok"):
        own_share(pack, dist.group.WORLD, merge=2)


def test_a_tower_with_tokens_of_its_own_before_each_picture_is_refused(models):
    model = models["qwen2_vl"][0]
    model.vision.num_prefix_tokens = 5
    with pretend_world(2), pytest.raises(ValueError, match="puts 5 tokens before each picture"):
        model.share_packs(dist.group.WORLD)
    del model.vision.num_prefix_tokens
