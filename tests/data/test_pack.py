"""Samples end to end: bounds, positions, targets, and packs padded to a fixed shape."""

import dataclasses

import numpy as np
import pytest
import torch

from mindvl.batch import ImageGrid
from mindvl.data.pack import PATCH_STEP, TARGET_STEP, pack_samples
from mindvl.data.sample import EncodedSample


def test_the_toy_pack_of_the_docstring_has_the_fields_it_shows():
    v, a, b, c, d, question = 99, 1, 2, 3, 4, 5
    grid = ImageGrid(1, 2, 4)
    samples = [
        EncodedSample(
            "one",
            "toy",
            np.array([v, v, a, question, b]),
            np.array([-1, -1, -1, b, -1]),
            np.array([0, 1]),
            np.zeros((8, 588), np.uint8),
            [grid],
        ),
        EncodedSample(
            "two",
            "toy",
            np.array([c, question, d]),
            np.array([-1, d, -1]),
            np.zeros(0, np.int64),
            np.zeros((0, 588), np.uint8),
            [],
        ),
    ]
    batch = pack_samples(samples, token_budget=16, merge=2, window_tokens=4)
    assert batch.input_ids.tolist() == [v, v, a, question, b, c, question, d]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.doc_lengths == (5, 3) and batch.cu_seqlens.tolist() == [0, 5, 8]
    assert batch.image_index.tolist() == [0, 1]
    assert batch.supervised_index.tolist() == [3, 6] and batch.targets.tolist() == [b, d]
    assert (batch.num_tokens, batch.num_supervised, batch.num_images, batch.num_patches) == (8, 2, 1, 8)
    assert batch.keys == ("one", "two") and batch.sources == ("toy", "toy") and batch.token_budget == 16


def test_placeholders_lie_where_the_image_index_points(samples, pack, encoder):
    batch = pack(*samples)
    assert (batch.input_ids[batch.image_index] == encoder.image_token_id).all()
    assert len(batch.image_index) == (batch.input_ids == encoder.image_token_id).sum()
    assert len(batch.image_index) * 4 == batch.num_patches == len(batch.vision.patches)


def test_no_target_crosses_the_bound_of_its_document(samples, pack):
    batch = pack(*samples)
    last = batch.cu_seqlens[1:] - 1
    assert not set(last.tolist()) & set(batch.supervised_index.tolist())
    assert torch.equal(batch.targets, batch.input_ids[batch.supervised_index + 1])


def test_a_pack_without_pictures_has_no_vision_inputs(samples, pack):
    batch = pack(samples[1])
    assert batch.vision is None and batch.num_images == batch.num_patches == 0 and len(batch.image_index) == 0


def test_more_tokens_than_the_budget_are_refused_with_both_numbers(samples):
    held = sum(len(sample.input_ids) for sample in samples)
    with pytest.raises(ValueError, match=f"hold {held} tokens, the pack's budget is {held - 1}"):
        pack_samples(samples, token_budget=held - 1, merge=2, window_tokens=2)


def test_a_batch_moves_with_all_its_tensors_and_keeps_its_numbers(samples, pack):
    batch = pack(*samples)
    moved = batch.to("meta")
    for before, after in ((batch, moved), (batch.vision, moved.vision)):
        for item in dataclasses.fields(before):
            value = getattr(after, item.name)
            if isinstance(value, torch.Tensor):
                assert value.device.type == "meta" and value.shape == getattr(before, item.name).shape
    assert moved.doc_lengths == batch.doc_lengths and moved.keys == batch.keys


def fixed(samples, budget=512):
    return pack_samples(samples, token_budget=budget, merge=2, window_tokens=2, fixed_shapes=True)


def test_packs_of_fixed_shape_have_one_shape_and_the_true_counts(samples, pack):
    one, other = fixed(samples), fixed(samples[2:])
    for batch in (one, other):
        assert batch.input_ids.shape == batch.position_ids.shape == (512,)
        assert batch.targets.shape == batch.supervised_index.shape == (TARGET_STEP,)
        assert batch.vision.patches.shape == (PATCH_STEP, 588)
        assert sum(batch.doc_lengths) == 512 and sum(batch.vision.window_lengths) == PATCH_STEP
    free = pack(*samples)
    counts = ("num_tokens", "num_supervised", "num_patches", "num_images")
    assert [getattr(one, name) for name in counts] == [getattr(free, name) for name in counts]


@pytest.mark.parametrize("budget", [512, None], ids=["padded", "full"])
def test_a_pack_of_fixed_shape_has_the_loss_and_every_gradient_of_the_free_one(budget, make_model, samples, pack):
    model, free = make_model(), pack(*samples)
    loss = model(packed=free).loss
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    padded = model(packed=fixed(samples, budget or free.num_tokens)).loss
    padded.backward()
    torch.testing.assert_close(padded, loss, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - expected[name]).abs().max() / expected[name].abs().max()
        assert difference <= 1e-5, f"{name}: {difference:.1e}"


def test_a_pack_of_fixed_shape_without_pictures_or_targets_teaches_nothing(make_model, make_sample):
    sample = make_sample("a", "b")
    silent = dataclasses.replace(sample, targets=np.full_like(sample.targets, -1))
    model = make_model()
    loss = model(packed=fixed([silent], 64)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or p.grad.eq(0).all() for p in model.parameters())
