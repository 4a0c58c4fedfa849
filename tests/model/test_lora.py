"""Adapters start as nothing, train alone, and merge into what they were."""

import json
import sys

import pytest
import torch
from torch import nn

from mindvl.model.lora import (
    Lora,
    add_adapters,
    check_same,
    draw_adapters,
    has_adapters,
    merged_state,
    merged_weights,
    save_adapters,
)
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import PARTS, is_adapter, part_of, plain_name, train_only, trained_parameters

peft = pytest.importorskip("peft")

VISION = ["qkv", "proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LATENT = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
EXPERTS = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
CASES = {
    "attention of the language model": ({}, Lora(rank=4, alpha=8, targets=["q_proj", "v_proj"])),
    "every part": (
        {"tie_word_embeddings": False},
        Lora(rank=3, alpha=5, parts=list(PARTS), targets=[*VISION, *ATTENTION, "mlp.0", "mlp.2", "lm_head"]),
    ),
    "the projector": ({}, Lora(rank=2, alpha=2, parts=["projector"], targets=["mlp.0"])),
    "llama": ({"model_type": "llama"}, Lora(rank=4, alpha=8, targets=[*ATTENTION, "down_proj"])),
    "a mixture of experts": (EXPERTS, Lora(rank=4, alpha=8, targets=ATTENTION)),
    "latent attention": (
        LATENT,
        Lora(
            rank=4,
            alpha=8,
            targets=["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "shared_experts.up_proj"],
        ),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, make_model):
    """The base model, one with adapters at their start, and one whose adapters have values."""
    language, lora = CASES[request.param]
    start, trained = (make_model(language=language) for _ in range(2))
    for model in (start, trained):
        add_adapters(model, lora)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    return make_model(language=language), start.eval(), trained.eval(), lora


@torch.no_grad()
def hidden(model, batch):
    return model.get_output_embeddings()(model.hidden_states(batch))


def test_new_adapters_leave_every_output_as_it_was_to_the_bit(case, samples, pack):
    base, start, _, _ = case
    assert torch.equal(hidden(start, pack(*samples)), hidden(base, pack(*samples)))
    losses = [model(packed=pack(*samples)).loss.item() for model in (start, base)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # an adapted head has another fused loss


def test_a_merged_model_has_the_names_of_one_without_and_gives_what_the_adapters_give(case, samples, pack):
    base, _, trained, _ = case
    merged = merged_weights(trained)
    assert merged.keys() == base.state_dict().keys()
    ours = hidden(trained, pack(*samples))
    assert (ours - hidden(base, pack(*samples))).abs().max() > 1e-3
    base.load_state_dict(merged)
    torch.testing.assert_close(hidden(base, pack(*samples)), ours, rtol=1e-6, atol=1e-5)


def test_merging_agrees_with_peft_to_a_millionth(case):
    _, _, trained, lora = case
    ours = merged_weights(trained)
    for name, layer in trained.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            theirs = layer.base_layer.weight + layer.get_delta_weight("default")
            torch.testing.assert_close(ours[f"{name}.weight"], theirs, rtol=1e-6, atol=1e-6)
            assert layer.scaling["default"] == lora.scale
    adapted = {name for name, tensor in ours.items() if tensor is not trained.state_dict().get(name)}
    assert adapted >= {plain_name(name) for name in trained.state_dict() if ".base_layer." in name}


def test_merging_leaves_the_model_with_its_adapters(case):
    _, _, trained, _ = case
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    merged_weights(trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_adapters_train_and_the_weights_of_their_parts_do_not(case, samples, pack):
    _, _, trained, lora = case
    trained.zero_grad()
    train_only(trained, PARTS)
    trained(packed=pack(*samples)).loss.backward()
    for name, parameter in trained.named_parameters():
        trains = is_adapter(name) or part_of(name) not in lora.parts
        assert parameter.requires_grad == trains and (parameter.grad is not None) == trains, name
        if is_adapter(name):  # a layer whose adapter nobody calls would have none
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("parts", [["language"], ["projector"], ["vision", "projector"]])
def test_a_phase_that_freezes_a_part_freezes_its_adapters_too(parts, make_model):
    model = make_model()
    add_adapters(model, Lora(rank=2, parts=["language", "projector"], targets=["q_proj", "mlp.0"]))
    train_only(model, parts)
    names = [name for name, _ in trained_parameters(model)]
    assert {part_of(name) for name in names} == set(parts)
    assert all(is_adapter(name) for name in names if part_of(name) != "vision")
    train_only(model, ["vision"])
    assert not any(is_adapter(name) for name, _ in trained_parameters(model))


def test_targets_hit_layers_of_the_chosen_parts_alone(make_model):
    model = make_model()
    add_adapters(model, Lora(rank=2, targets=["up_proj"]))
    adapted = [name for name, _ in model.named_parameters() if ".lora_A." in name]
    assert len(adapted) == 2 and all(name.startswith("language_model.") for name in adapted)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
def test_saved_adapters_are_read_by_peft(case, tmp_path, samples, pack, make_model):
    _, _, trained, lora = case
    save_adapters(trained, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (lora.rank, lora.alpha, "LORA")
    fresh = MindVL(trained.config).eval()
    fresh.load_state_dict({plain_name(n): t for n, t in trained.state_dict().items() if not is_adapter(n)})
    wrapped = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(hidden(wrapped.get_base_model(), pack(*samples)), hidden(trained, pack(*samples)))
    merged = wrapped.merge_and_unload().state_dict()
    for name, tensor in merged_weights(trained).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)


def test_drawn_adapters_depend_on_seed_and_name_and_start_at_nothing(make_model):
    drawn = []
    for seed in (1, 1, 2):
        model = make_model()
        add_adapters(model, Lora(rank=4))
        draw_adapters(model, seed=seed)
        drawn.append({name: tensor for name, tensor in model.named_parameters() if is_adapter(name)})
    first, second, other = drawn
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        if ".lora_B." in name:
            assert not tensor.any()
        else:
            assert not torch.equal(tensor, other[name]) and tensor.abs().max() <= 32**-0.5  # kaiming's bound for 32
    downs = [tensor for name, tensor in first.items() if ".lora_A." in name and tensor.shape == (4, 32)]
    assert not torch.equal(downs[0], downs[1])


def test_bf16_weights_are_merged_in_fp32_and_rounded_once():
    torch.manual_seed(0)
    base, down, up = torch.randn(6, 5).bfloat16(), torch.randn(2, 5), torch.randn(6, 2)
    state = {"a.base_layer.weight": base, "a.lora_A.default.weight": down, "a.lora_B.default.weight": up}
    (merged,) = merged_state(state, 0.5).values()
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, (base.double() + 0.5 * (up.double() @ down.double())).to(torch.bfloat16))


def test_half_an_adapter_is_refused_by_name():
    layer = nn.Linear(3, 3).weight.detach()
    with pytest.raises(ValueError, match=r"the adapter of a is not whole: a\.lora_B\.default\.weight is missing"):
        merged_state({"a.base_layer.weight": layer, "a.lora_A.default.weight": layer}, 1.0)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"targets": ["qproj"]},
            "targets names qproj, which is no linear layer of language; there are .*k_proj.*q_proj",
        ),
        ({"parts": ["vision"]}, "targets names q_proj, which is no linear layer of vision; there are down_proj.*qkv"),
        ({"parts": ["projector"]}, r"targets names q_proj, .* of projector; there are mlp\.0, mlp\.2"),
        ({"targets": ["lm_head"]}, "includes language_model.lm_head, whose weight is the token embedding's too"),
        ({"targets": ["norm"]}, "targets names norm, which is no linear layer"),
        ({"targets": []}, "targets is empty: nothing would be trained"),
    ],
)
def test_layers_that_cannot_have_adapters_are_refused_by_name(settings, complaint, make_model):
    with pytest.raises(ValueError, match=complaint):
        add_adapters(make_model(), Lora(**settings))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rank": 0}, "model.lora.rank is 0, an adapter has at least 1"),
        ({"dropout": 1.0}, "model.lora.dropout is 1.0, outside 0 .. 1"),
        ({"parts": []}, r"model.lora.parts is \[\]; a MindVL has vision, projector, language"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Lora(**settings)


def test_without_peft_the_extra_is_named_and_the_model_is_left_alone(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = make_model()
    with pytest.raises(ValueError, match=r"model.lora needs peft: pip install 'mindvl\[lora\]'"):
        add_adapters(model, Lora())
    assert not has_adapters(model)


def test_a_checkpoint_of_other_adapters_is_refused_with_both_settings():
    same = {"rank": 4, "alpha": 8.0, "parts": ["language"], "targets": ["q_proj"], "dropout": 0.0}
    check_same(same, Lora(rank=4, alpha=8.0, targets=["q_proj"]))
    check_same(None, None)
    for saved, now in ((same, Lora(**{**same, "alpha": 16.0})), (same, None), (None, Lora())):
        with pytest.raises(ValueError, match=r"was trained with model\.lora .*, the config has"):
            check_same(saved, now)
