"""Routers choose in fp32 as transformers' do, experts run in the precision of the step, and weights come back."""

import copy
import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from mindvl.cli.average import average_models
from mindvl.model.mindvl import MindVL
from mindvl.model.moe import BIAS, GROUPED, SigmoidRouter, SoftmaxRouter, replace_routers, routers_of
from mindvl.phases.model_spec import build_model

QWEN = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
}
FAMILIES = pytest.mark.parametrize("family", [QWEN, DEEPSEEK], ids=["qwen3_moe", "deepseek_v3"])


def with_biases(model, *, scale=0.3, seed=0):
    """The model with selection biases that change choices."""
    generator = torch.Generator().manual_seed(seed)
    for router in routers_of(model).values():
        if hasattr(router, BIAS):
            getattr(router, BIAS).copy_(scale * torch.randn(router.num_experts, generator=generator))
    return model


def router_pairs(make_model, family, **changes):
    """A stock router with random weights and bias, and ours in its place."""
    model = with_biases(make_model(language={**family, **changes}))
    (layer, ours) = max(routers_of(model).items())
    kind = Qwen3MoeTopKRouter if family is QWEN else DeepseekV3TopkRouter
    stock = kind(model.config.text_config)
    stock.load_state_dict(ours.state_dict())
    return stock, ours, layer


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        (QWEN, {}),
        (QWEN, {"norm_topk_prob": False}),
        (QWEN, {"norm_topk_prob": True}),
        (DEEPSEEK, {}),
        (DEEPSEEK, {"n_group": 1}),
        (DEEPSEEK, {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}),
        (DEEPSEEK, {"norm_topk_prob": False, "routed_scaling_factor": 1.7}),
    ],
    ids=str,
)
def test_our_router_is_the_stock_one_in_fp32(family, changes, make_model):
    stock, ours, _ = router_pairs(make_model, family, **changes)
    rows = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(sort_experts(ours(rows)), sort_experts(stock(rows)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    assert isinstance(ours, type(stock)), "transformers finds routers by class for output_router_logits"


def sort_experts(outputs):
    """Neither order nor ties of a top-k mean anything."""
    logits, weights, chosen = outputs
    chosen, order = chosen.sort(dim=-1)
    return logits, weights.gather(1, order), chosen


@FAMILIES
def test_replacing_keeps_names_and_parameters_and_counts_the_routers(family, make_config):
    stock = AutoModelForCausalLM.from_config(make_config(language=family).text_config)
    names, parameters = list(stock.state_dict()), {name: id(p) for name, p in stock.named_parameters()}
    assert replace_routers(stock) == 2
    assert list(stock.state_dict()) == names
    assert {name: id(parameter) for name, parameter in stock.named_parameters()} == parameters
    assert replace_routers(stock) == 0


@FAMILIES
def test_routing_is_in_fp32_under_autocast_and_in_a_bf16_model(family, make_model):
    stock, ours, _ = router_pairs(make_model, family)
    rows = torch.randn(200, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = ours(rows.float())
    with torch.autocast("cpu", torch.bfloat16):
        logits, weights, chosen = ours(rows)
        coarse = stock(rows)[0]
    assert logits.dtype == weights.dtype == torch.float32 and torch.equal(logits, exact[0])
    assert torch.equal(chosen, exact[2])
    assert coarse.dtype == torch.bfloat16, "transformers routes in fp32 under autocast too: ours is not needed any more"
    ours.bfloat16()
    assert ours(rows)[0].dtype == torch.float32


def test_the_selection_bias_stays_fp32_and_unrounded_when_the_model_becomes_bf16(make_model, tmp_path):
    model = with_biases(make_model(language=DEEPSEEK))
    before = {layer: router.e_score_correction_bias.clone() for layer, router in routers_of(model).items()}
    model.bfloat16()
    model.save_pretrained(tmp_path)
    for each in (model, MindVL.from_pretrained(tmp_path, dtype=torch.bfloat16)):
        assert each.get_input_embeddings().weight.dtype == torch.bfloat16
        for layer, router in routers_of(each).items():
            assert router.e_score_correction_bias.dtype == torch.float32
            assert torch.equal(router.e_score_correction_bias, before[layer])


def test_the_bias_chooses_but_does_not_weigh(make_model):
    _, router, _ = router_pairs(make_model, DEEPSEEK, n_group=1)
    rows = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    router.e_score_correction_bias.zero_()
    router.e_score_correction_bias[3] = 10.0
    logits, weights, chosen = router(rows)
    assert (chosen == 3).any(dim=1).all()
    scores = logits.sigmoid().gather(1, chosen)
    torch.testing.assert_close(weights, 2.5 * scores / scores.sum(dim=1, keepdim=True))
    assert not router.e_score_correction_bias.requires_grad


@FAMILIES
def test_shares_sum_to_one_for_each_token(family, make_model):
    _, router, _ = router_pairs(make_model, family)
    shares = router.shares(torch.randn(10, 8))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(10))


@FAMILIES
def test_experts_are_grouped_products_unless_the_config_names_others_and_never_batched(family, make_model):
    assert make_model(language=family).language_model.config._experts_implementation == GROUPED
    eager = make_model(language={**family, "experts_implementation": "eager"})
    assert eager.language_model.config._experts_implementation == "eager"
    with pytest.raises(ValueError, match=r"language\.experts_implementation is batched_mm, .*use grouped_mm"):
        make_model(language={**family, "experts_implementation": "batched_mm"})


@FAMILIES
def test_grouped_products_equal_a_loop_over_experts_forward_and_backward(family, make_model, samples, pack):
    batch, gradients, losses = pack(*samples), [], []
    for implementation in ("eager", None):
        chosen = {} if implementation is None else {"experts_implementation": implementation}
        model = with_biases(make_model(language={**family, **chosen}))
        loss = model(packed=batch).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).norm() <= 1e-5 * expected.norm() + 1e-9, name


@FAMILIES
def test_experts_multiply_in_the_autocast_precision(family, make_model):
    model = make_model(language=family)
    experts = next(module for module in model.modules() if type(module).__name__.endswith("Experts"))
    states, chosen, weights = torch.randn(30, 32), torch.randint(8, (30, 2)), torch.rand(30, 2)
    with torch.autocast("cpu", torch.bfloat16):
        lower = experts(states, chosen, weights)
    assert lower.dtype == torch.bfloat16
    full = experts(states, chosen, weights)
    assert full.dtype == torch.float32
    low = copy.deepcopy(experts).bfloat16()
    assert torch.equal(lower, low(states.bfloat16(), chosen, weights))
    assert (lower - full).norm() <= 0.02 * full.norm()


@FAMILIES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_expert_without_tokens_has_zero_gradient_and_nothing_is_nan(family, precision, make_model, samples, pack):
    model = make_model(language=family)
    with torch.no_grad():
        for router in routers_of(model).values():
            router.weight.zero_()  # equal scores: a top-k takes the same experts for each token
            if hasattr(router, BIAS):
                router.e_score_correction_bias.copy_(-torch.arange(8.0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(packed=pack(*samples)).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    experts = [p.grad for name, p in model.named_parameters() if name.endswith("experts.down_proj")]
    assert len(experts) == 2 and all((gradient.flatten(1) == 0).all(dim=1).sum() == 6 for gradient in experts)


@FAMILIES
def test_a_saved_model_comes_back_with_its_biases_and_a_phase_starts_from_it(family, make_model, make_spec, tmp_path):
    from safetensors import safe_open

    model = with_biases(make_model(language=family))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert any(key.endswith("mlp.experts.7.gate_proj.weight") for key in set(file.keys()))
    spec = make_spec(language=family, start_from=str(tmp_path))
    for back in (MindVL.from_pretrained(tmp_path), build_model(spec, model.config)):
        assert back.state_dict().keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, back.state_dict()[name]), name


def test_a_folder_with_another_number_of_experts_is_refused_by_name(make_model, make_config, make_spec, tmp_path):
    make_model(language=DEEPSEEK).save_pretrained(tmp_path)
    fewer = {**DEEPSEEK, "n_routed_experts": 16}
    spec = make_spec(language=fewer, start_from=str(tmp_path))
    with pytest.raises(ValueError, match=r"48 keys missing \(first: .*layers.1.mlp.experts.8.gate_proj"):
        build_model(spec, make_config(language=fewer))


def test_the_average_of_saved_models_has_the_mean_of_their_biases_and_experts(make_model, make_spec, tmp_path):
    models = [with_biases(make_model(language=DEEPSEEK, seed=seed), seed=seed) for seed in range(3)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    average_models([tmp_path / str(number) for number in range(3)], tmp_path / "mean")
    mean = build_model(make_spec(language=DEEPSEEK, start_from=str(tmp_path / "mean")), models[0].config)
    for name in ("mlp.experts.gate_up_proj", f"mlp.gate.{BIAS}"):
        name = f"language_model.model.layers.2.{name}"
        expected = sum(model.state_dict()[name].double() for model in models) / 3
        torch.testing.assert_close(mean.state_dict()[name].double(), expected, rtol=0, atol=1e-6)


@FAMILIES
def test_layers_are_numbered_as_in_the_model_and_the_dense_ones_have_no_router(family, make_model):
    found = routers_of(make_model(language=family))
    assert list(found) == ([0, 1] if family is QWEN else [1, 2])
    assert all(isinstance(router, SoftmaxRouter if family is QWEN else SigmoidRouter) for router in found.values())


def test_a_model_without_experts_is_left_as_it_was(make_model, pack, samples):
    model = make_model()
    assert routers_of(model) == {} and replace_routers(model) == 0


def test_flops_count_the_share_of_the_experts_that_a_token_is_sent_to(make_model, pack, samples):
    from mindvl.model.flops import forward_flops

    model, batch = make_model(language=QWEN), pack(*samples)
    one = {**QWEN, "num_experts_per_tok": 1}
    two, single = (forward_flops(each, batch)["language"] for each in (model, make_model(language=one)))
    per_expert_and_layer = 3 * 24 * 32
    assert two["weights"] - single["weights"] == 2 * batch.num_tokens * 2 * per_expert_and_layer
    silent = dataclasses.replace(batch, num_tokens=0, num_supervised=0)
    assert forward_flops(model, silent)["language"]["weights"] == 0
