"""A pack is nothing but its documents: same loss, same gradients, no influence between neighbours."""

import dataclasses

import pytest
import torch

LANGUAGES = {
    "qwen3": {},
    "qwen3_moe": {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2},
}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_a_packs_loss_and_every_gradient_equal_those_of_its_samples_run_one_at_a_time(
    language, make_model, samples, pack
):
    model = make_model(language=language)
    loss = model(packed=pack(*samples)).loss
    loss.backward()
    packed = gradients(model)
    model.zero_grad()
    single = sum(model(packed=pack(sample)).loss for sample in samples)
    single.backward()
    torch.testing.assert_close(loss, single, rtol=1e-6, atol=0)
    assert set(packed) == {name for name, _ in model.named_parameters()}
    for name, theirs in gradients(model).items():
        difference = (packed[name] - theirs).abs().max() / theirs.abs().max()
        assert difference <= 1e-5, f"{name}: {difference:.1e}"


def test_the_order_of_documents_does_not_matter(make_model, samples, pack):
    model = make_model()
    one, other = (model(packed=pack(*order)).loss for order in (samples, samples[::-1]))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("changed", range(4))
def test_changing_one_document_leaves_the_hidden_states_of_its_neighbours_bit_equal(changed, make_model, samples, pack):
    model, batch = make_model(), pack(*samples)
    with torch.no_grad():
        before = model.hidden_states(batch).split(batch.doc_lengths)
        ids, patches = batch.input_ids.clone(), batch.vision.patches.clone()
        document = ids.split(batch.doc_lengths)[changed]
        words = (document < 256).nonzero()[:, 0]
        document[words] = (document[words] + 1) % 256
        counts = [sum(grid.patches for grid in sample.grids) for sample in samples]
        patches.split(counts)[changed].fill_(200)
        vision = dataclasses.replace(batch.vision, patches=patches)
        after = model.hidden_states(dataclasses.replace(batch, input_ids=ids, vision=vision)).split(batch.doc_lengths)
    equal = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert equal == [number != changed for number in range(4)]


def test_changing_a_picture_alone_changes_its_document(make_model, samples, pack):
    model, batch = make_model(), pack(*samples)
    with torch.no_grad():
        before = model.hidden_states(batch).split(batch.doc_lengths)
        vision = dataclasses.replace(batch.vision, patches=255 - batch.vision.patches)
        after = model.hidden_states(dataclasses.replace(batch, vision=vision)).split(batch.doc_lengths)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [False, True, False, False]


def test_a_pack_without_pictures_trains_the_language_model_alone(make_model, samples, pack):
    model = make_model()
    model(packed=pack(samples[1])).loss.backward()
    assert {name.split(".")[0] for name in gradients(model)} == {"language_model"}
    assert all(gradient.abs().max() > 0 for gradient in gradients(model).values())


def test_under_bf16_autocast_the_loss_is_near_that_of_fp32(make_model, samples, pack):
    model, batch = make_model(), pack(*samples)
    exact = model(packed=batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        near = model(packed=batch).loss
    near.backward()
    assert near.dtype == torch.float32
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients(model).values())
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0)


def test_recomputed_activations_give_the_same_gradients(make_model, samples, pack):
    model, batch = make_model().train(), pack(*samples)
    model(packed=batch).loss.backward()
    kept = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable()
    calls = []
    for layer in (model.vision.blocks[0].attn, model.language_model.model.layers[0].self_attn):
        layer.register_forward_pre_hook(lambda module, args: calls.append(type(module).__name__))
    model(packed=batch).loss.backward()
    assert sorted(calls) == ["PackedVisionAttention"] * 2 + ["Qwen3Attention"] * 2
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, kept[name], rtol=1e-6, atol=1e-7, msg=name)


def test_a_step_never_asks_transformers_for_a_mask(make_model, samples, pack, monkeypatch):
    import mindvl.model.attention as attention

    masks = []
    stock = attention.sdpa_mask
    monkeypatch.setattr(attention, "sdpa_mask", lambda *args, **kwargs: masks.append(1) or stock(*args, **kwargs))
    make_model()(packed=pack(*samples))
    assert masks == []
