"""Videos and pictures in one pack of the tower, and several in one conversation, against their plain makings."""

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.batch import ImageGrid
from mindvl.data.patches import join_patches
from mindvl.data.sample import PixelBudget, cut_visuals, widen_placeholders
from mindvl.model.config import CLIP_MEAN, CLIP_STD
from mindvl.model.vision import vision_inputs

GRIDS = [ImageGrid(1, 4, 10), ImageGrid(3, 4, 6), ImageGrid(1, 2, 2), ImageGrid(2, 6, 2), ImageGrid(1, 8, 6)]
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture
def stock(model):
    config = type(model.config.vision_config)(**{**model.config.vision_config.to_dict(), "attn_implementation": None})
    config._attn_implementation = "eager"
    stock = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    stock.load_state_dict(model.vision.state_dict(), strict=True)
    return stock


def bytes_of(grid, seed):
    """Patches of noise: of one frame for a picture, of two for a video."""
    values = 588 if grid.frames == 1 else 1176
    return np.random.default_rng(seed).integers(0, 256, (grid.patches, values), dtype=np.uint8)


def normalised(patches):
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((torch.from_numpy(patches).view(len(patches), 3, -1) / 255 - mean) / std).flatten(1)


def features_of(model, patches, grids):
    inputs = vision_inputs(torch.from_numpy(patches), grids, merge=2, window_tokens=model.config.window_tokens)
    return model.vision(inputs)


def assert_equal_to_1e_5(ours, theirs, name="features"):
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max(), name


def test_videos_and_pictures_of_one_pack_equal_the_stock_tower_forward_and_backward(model, stock):
    patches = join_patches([bytes_of(grid, seed) for seed, grid in enumerate(GRIDS)])
    ours = features_of(model, patches, GRIDS)
    thw = torch.tensor([(grid.frames, grid.height, grid.width) for grid in GRIDS])
    theirs = stock(normalised(patches), thw).pooler_output
    assert_equal_to_1e_5(ours, theirs)
    weight = torch.randn_like(ours)
    model.zero_grad()
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in model.vision.named_parameters():
        assert_equal_to_1e_5(parameter.grad, gradients[name], name)


def test_each_of_them_has_the_features_that_it_has_alone_a_picture_then_of_half_the_bytes(model):
    parts = [bytes_of(grid, seed) for seed, grid in enumerate(GRIDS)]
    together = features_of(model, join_patches(parts), GRIDS).split([grid.merged() for grid in GRIDS])
    for grid, part, features in zip(GRIDS, parts, together, strict=True):
        assert_equal_to_1e_5(features, features_of(model, part, [grid]))


@pytest.fixture(scope="module")
def visuals(picture):
    """Three pictures, then a video of five frames of 30x60 pixels."""
    stills = [picture(*size, seed=seed) for seed, size in enumerate([(28, 56), (112, 84), (56, 140)])]
    return [*stills, tuple(picture(30, 60, seed=9 + number) for number in range(5))]


BUDGET = PixelBudget(784, 64 * 784, video_min_pixels=784, video_max_pixels=8 * 784, video_total_pixels=40 * 784)
TEXT = {"type": "text", "text": "then"}


def conversation(*kinds_of_turns):
    """User turns of "i" (a picture), "v" (a video) and "t" (a text), each answered but the last."""
    parts = {"i": {"type": "image"}, "v": {"type": "video"}, "t": TEXT}
    messages = []
    for kinds in kinds_of_turns:
        messages += [{"role": "user", "content": [parts[kind] for kind in kinds]}]
        messages += [{"role": "assistant", "content": "so"}]
    return messages[:-1]


def encoded(encoder, messages, visuals):
    patches, grids = cut_visuals(visuals, BUDGET)
    ids = np.asarray(encoder.encode(messages, generation_prompt=True).input_ids)
    tokens = [grid.merged() for grid in grids]
    ids, _, where = widen_placeholders(ids, np.zeros(len(ids), bool), tokens, *encoder.placeholder_ids)
    return torch.from_numpy(ids), patches, grids, where


def said_by_hand(model, encoder, messages, visuals):
    """Greedy decoding by the language model alone, over embeddings that are laid side by side, piece by piece."""
    ids = encoder.encode(messages, generation_prompt=True).input_ids
    waiting = iter(visuals)
    embed = model.get_input_embeddings()
    pieces = []
    for token in ids:
        if token in encoder.placeholder_ids:
            patches, grids = cut_visuals([next(waiting)], BUDGET)
            pieces.append(features_of(model, patches, grids))
        else:
            pieces.append(embed(torch.tensor([token])))
    embeddings, said = torch.cat(pieces), []
    for _ in range(NEW_TOKENS):
        logits = model.language_model(inputs_embeds=embeddings[None], use_cache=False).logits[0, -1]
        said.append(int(logits.argmax()))
        embeddings = torch.cat([embeddings, embed(torch.tensor(said[-1:]))])
    return said


def generated(model, ids, patches, grids):
    output = model.generate(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        pixel_values=torch.from_numpy(patches),
        image_grid_thw=torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("turns", "shown"),
    [
        (("iti",), (0, 1)),
        (("tiit", "it"), (0, 1, 2)),
        (("i", "t", "tii"), (2, 0, 1)),
        (("vt",), (3,)),
        (("itv", "ti", "vi"), (0, 3, 1, 3, 2)),
    ],
)
def test_generation_equals_a_sequence_that_was_put_together_by_hand(turns, shown, model, encoder, visuals):
    messages, mine = conversation(*turns), [visuals[number] for number in shown]
    ids, patches, grids, _ = encoded(encoder, messages, mine)
    with torch.inference_mode():
        assert generated(model, ids, patches, grids) == said_by_hand(model, encoder, messages, mine)


def test_the_order_of_the_pictures_matters_to_what_is_said(model, encoder, visuals):
    messages, said = conversation("tiit", "it"), set()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        ids, patches, grids, where = encoded(encoder, messages, [visuals[number] for number in order])
        with torch.inference_mode():
            said.add(tuple(generated(model, ids, patches, grids)))
        assert len(where) == sum(grid.merged() for grid in grids)
    assert len(said) > 1
