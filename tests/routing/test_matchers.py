"""Every family that transformers ships, on tiny random weights: recorded ids against two independent witnesses.

The first is the family's own rule, worked out in numpy from the block's input and the gate's weights. The second is
what ran: the output of a block at a token has a gradient with respect to an expert's weights exactly when that
expert worked on the token, however the experts are implemented.
"""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mindvl.routing.families import FAMILIES, matchers_table
from mindvl.routing.matchers import MATCHERS, Matcher, find_moe_layers
from mindvl.routing.recorder import RoutingRecorder

E, K = 8, 2
BASE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_experts": E,
    "num_local_experts": E,
    "num_experts_per_tok": K,
    "moe_intermediate_size": 24,
}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = {**MLA, "num_key_value_heads": 4, "n_routed_experts": E, "n_shared_experts": 2, "first_k_dense_replace": 1}
GROUPS = {"n_group": 4, "topk_group": 2}
SHARED = {"shared_expert_intermediate_size": 48}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4}
BLOCKS = r"mlp|block_sparse_moe|feed_forward|ffn"


def best(scores, k=K):
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def of_best_groups(scores, group_scores, outside):
    """Scores with those of all but the 2 best of 4 groups of 2 experts replaced."""
    allowed = np.zeros_like(group_scores, bool)
    np.put_along_axis(allowed, best(group_scores, 2), True, -1)
    return np.where(np.repeat(allowed, 2, axis=-1), scores, outside)


def greedy(logits, block):
    return best(logits)


def deepseek_v2_groups(logits, block):
    scores = softmax(logits)
    return best(of_best_groups(scores, scores.reshape(-1, 4, 2).max(-1), 0.0))


def deepseek_v3(logits, block):
    scores = 1 / (1 + np.exp(-logits)) + block.gate.e_score_correction_bias.numpy()
    return best(of_best_groups(scores, scores.reshape(-1, 4, 2).sum(-1), -np.inf))


# name: (model type, config, gate's weight in the block, rule, whether ids come best first, MoE layers, shared)
FAMILIES_HERE = {
    "Mixtral": ("mixtral", {}, "gate.weight", greedy, True, 3, 0),
    "Qwen1.5/2-MoE": ("qwen2_moe", SHARED, "gate.weight", greedy, True, 3, 2),
    "Qwen3-MoE": ("qwen3_moe", {"norm_topk_prob": True}, "gate.weight", greedy, True, 3, 0),
    "Qwen3-MoE, every second layer": ("qwen3_moe", {"decoder_sparse_step": 2}, "gate.weight", greedy, True, 1, 0),
    "OLMoE": ("olmoe", {}, "gate.weight", greedy, True, 3, 0),
    "Phi-3.5-MoE": ("phimoe", {}, "router.weight", greedy, True, 3, 0),
    "JetMoE": ("jetmoe", {"kv_channels": 8}, "router.layer.weight", greedy, True, 3, 0),
    "PowerMoE": ("granitemoe", {}, "router.weight", greedy, True, 3, 0),
    "Jamba": ("jamba", JAMBA, "router.weight", greedy, True, 1, 0),
    "DeepSeek-V2": ("deepseek_v2", {**DEEPSEEK, "topk_method": "greedy"}, "gate.weight", greedy, False, 2, 2),
    "DeepSeek-V2, groups": (
        "deepseek_v2",
        {**DEEPSEEK, **GROUPS, "topk_method": "group_limited_greedy"},
        "gate.weight",
        deepseek_v2_groups,
        False,
        2,
        2,
    ),
    "DeepSeek-V3": ("deepseek_v3", {**DEEPSEEK, **GROUPS}, "gate.weight", deepseek_v3, False, 2, 2),
    "GraniteMoE with a shared MLP": (
        "granitemoeshared",
        {"shared_intermediate_size": 24},
        "router.weight",
        greedy,
        True,
        3,
        1,
    ),
    "gpt-oss": ("gpt_oss", {}, "router.weight", greedy, True, 3, 0),
    "Llama 4": ("llama4_text", {"intermediate_size_mlp": 24}, "router.weight", greedy, True, 3, 1),
}


def make(model_type, config):
    """A model whose routers are far from uniform."""
    auto = AutoModelForSeq2SeqLM if model_type in ("nllb-moe", "switch_transformers") else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(model_type, **config), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif "bias" in name:
                parameter.normal_(std=0.1)
        for name, buffer in model.named_buffers():
            if "correction_bias" in name:
                buffer.normal_(std=0.2)
    return model


def block_of(model, layer):
    """The MoE block around a hooked module."""
    return model.get_submodule(layer.name.rpartition(".")[0])


def calls_of(model, blocks, **inputs):
    """First argument of each block in one forward call."""
    seen = {}
    handles = [
        block.register_forward_pre_hook(
            lambda block, args, kwargs: seen.update({block: args[0].clone()}), with_kwargs=True
        )
        for block in blocks
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return [seen[block] for block in blocks]


def experts_that_ran(block, hidden, num_experts):
    """For each token, the set of experts whose weights its output depends on."""
    stacked = [
        parameter
        for name, parameter in block.named_parameters()
        if ("experts" in name or "linear" in name) and parameter.ndim == 3 and parameter.shape[0] == num_experts
    ]
    single = None if stacked else [next(block.experts[key].parameters()) for key in block.experts]
    output = block(hidden)
    output = (output[0] if isinstance(output, tuple) else output).reshape(-1, hidden.shape[-1])
    sets = []
    for token in output:
        gradients = torch.autograd.grad(
            token.sum(), stacked[-1:] if stacked else single, retain_graph=True, allow_unused=True
        )
        sizes = gradients[0].abs().sum((1, 2)) if stacked else [0 if g is None else g.abs().sum() for g in gradients]
        sets.append({number for number, size in enumerate(sizes) if size > 0})
    return sets


@pytest.fixture(scope="module")
def ids():
    """Two rows of seven tokens, the second with two positions of padding before it."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(1, 64, (2, 7), generator=generator)
    mask = torch.ones_like(rows)
    mask[1, :2] = 0
    return {"input_ids": rows * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", FAMILIES_HERE)
def test_recorded_ids_are_those_of_the_rule_and_those_that_ran(name, ids):
    model_type, config, gate, rule, in_order, num_layers, shared = FAMILIES_HERE[name]
    model = make(model_type, {**BASE, **config})
    layers = find_moe_layers(model)
    assert len(layers) == num_layers and {layer.shared_experts for layer in layers} == {shared}
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**ids)
    recording = recorder.recording()
    assert recording.meta.layers == tuple(layer.name for layer in layers)
    assert (recording.meta.num_experts, recording.meta.k) == (E, K)
    assert [ids.shape for ids in recording] == [(7, num_layers, K), (5, num_layers, K)]
    recorded = np.concatenate(list(recording))
    real = ids["attention_mask"].reshape(-1).bool().numpy()
    blocks = [block_of(model, layer) for layer in layers]
    for number, (block, hidden) in enumerate(zip(blocks, calls_of(model, blocks, **ids), strict=True)):
        weight = block.get_parameter(gate)
        logits = (hidden.reshape(-1, hidden.shape[-1]) @ weight.T).detach().numpy()
        logits = logits + block.router.bias.detach().numpy() if model_type == "gpt_oss" else logits
        expected = rule(logits, block)[real]
        ours = recorded[:, number]
        assert np.array_equal(ours, expected) if in_order else np.array_equal(np.sort(ours), np.sort(expected))
        ran = experts_that_ran(block, hidden, E)
        assert [set(row) for row in ours] == [each for each, kept in zip(ran, real, strict=True) if kept]
    assert len(np.unique(recorded)) >= 5, "a router that uses few experts would prove little"


SWITCH = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2}
SWITCH |= {"num_heads": 4, "num_experts": E, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 2}
SWITCH |= {"expert_capacity": 1, "router_jitter_noise": 0.0, "pad_token_id": 0, "decoder_start_token_id": 0}
NLLB = {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
NLLB |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_experts": E}
NLLB |= {"encoder_sparse_step": 1, "decoder_sparse_step": 2, "max_position_embeddings": 64, "expert_capacity": 1}
NLLB |= {"moe_eval_capacity_token_fraction": 0.25, "router_ignore_padding_tokens": True}


def test_switch_records_a_token_of_a_full_expert_as_minus_one(ids):
    model = make("switch_transformers", SWITCH)
    decoder_ids = torch.randint(1, 64, (2, 5), generator=torch.Generator().manual_seed(1))
    inputs = {**ids, "decoder_input_ids": decoder_ids}
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**inputs)
    assert recorder.parts == ("encoder", "decoder")
    dropped = 0
    for part, real in (("encoder", ids["attention_mask"]), ("decoder", torch.ones_like(decoder_ids))):
        recording = recorder.recording(part)
        layers = [layer for layer in find_moe_layers(model) if layer.part == part]
        assert recording.meta.part == part and recording.meta.layers == tuple(layer.name for layer in layers)
        assert [len(ids) for ids in recording] == real.sum(1).tolist()
        blocks = [block_of(model, layer) for layer in layers]
        recorded = np.concatenate(list(recording))
        for number, (block, hidden) in enumerate(zip(blocks, calls_of(model, blocks, **inputs), strict=True)):
            choice = (hidden @ block.router.classifier.weight.T).argmax(-1).numpy()
            for row in choice:  # capacity 1: the first token of a row that wants an expert gets it
                seen = set()
                for token, expert in enumerate(row.tolist()):
                    row[token] = -1 if expert in seen else expert
                    seen.add(expert)
            chosen = choice[real.bool().numpy()]
            assert np.array_equal(recorded[:, number, 0], chosen)
            ran = [each for each, kept in zip(experts_that_ran(block, hidden, E), real.flatten(), strict=True) if kept]
            assert [set(row) - {-1} for row in recorded[:, number].tolist()] == ran
            dropped += int((chosen == -1).sum())
    assert dropped >= 5


def test_nllb_records_what_its_router_dispatches(ids):
    model = make("nllb-moe", NLLB)
    decoder_ids = torch.randint(1, 64, (2, 5), generator=torch.Generator().manual_seed(1))
    inputs = {**ids, "decoder_input_ids": decoder_ids}
    with RoutingRecorder(model, weights=True) as recorder, torch.no_grad():
        model(**inputs)
    dropped = 0
    for part, real in (("encoder", ids["attention_mask"]), ("decoder", torch.ones_like(decoder_ids))):
        recording = recorder.recording(part)
        layers = [layer for layer in find_moe_layers(model) if layer.part == part]
        assert recording.meta.k == 2 and len(recording.meta.layers) == len(layers)
        blocks = [block_of(model, layer) for layer in layers]
        recorded = np.concatenate(list(recording))
        weights = np.concatenate([recording.sample(number).weights for number in range(2)])
        for number, (block, hidden) in enumerate(zip(blocks, calls_of(model, blocks, **inputs), strict=True)):
            logits = (hidden.reshape(-1, 32) @ block.router.classifier.weight.T).detach().numpy()
            choice = best(logits)
            capacity = int(np.ceil(0.25 * len(choice)))
            used = np.bincount(choice[:, 0], minlength=E)
            firsts, seconds = np.zeros(E, int), used.copy()  # second choices queue behind all first ones
            probabilities, kept = softmax(logits), choice.copy()
            for token, (first, second) in enumerate(choice):
                if firsts[first] >= capacity:
                    kept[token, 0] = -1
                if seconds[second] >= capacity:
                    kept[token, 1] = -1
                firsts[first] += 1
                seconds[second] += 1
            gates = np.where(kept >= 0, np.take_along_axis(probabilities, choice, -1), 0)
            gates /= np.maximum(gates.sum(-1, keepdims=True), np.finfo(np.float32).eps)
            kept, gates = kept[real.bool().numpy().reshape(-1)], gates[real.bool().numpy().reshape(-1)]
            assert np.array_equal(recorded[:, number], kept)
            np.testing.assert_allclose(weights[:, number], gates, rtol=1e-5, atol=1e-6)
            dropped += int((kept == -1).sum())
    assert dropped >= 5


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_the_implementation_of_the_experts_does_not_matter(implementation, ids):
    model = make("qwen3_moe", {**BASE, "experts_implementation": implementation})
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**ids)
    (layer, *_) = find_moe_layers(model)
    block = block_of(model, layer)
    (hidden,) = calls_of(model, [block], **ids)
    expected = best((hidden.reshape(-1, 32) @ block.gate.weight.T).detach().numpy())
    assert np.array_equal(
        np.concatenate(list(recorder.recording()))[:, 0], expected[ids["attention_mask"].reshape(-1) > 0]
    )


def test_a_model_without_experts_is_refused_by_name():
    model = make("llama", BASE)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no MoE layer.*no module is called gate, router"):
        RoutingRecorder(model)


def test_an_unknown_gate_is_named_and_a_matcher_finds_it():
    class OddGate(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden).topk(2).indices

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.odd_router = OddGate(4, 6)
            self.gate_proj = torch.nn.Linear(4, 4)

        def forward(self, input_ids):
            return self.odd_router(torch.nn.functional.one_hot(input_ids, 4).float())

    block = Block()
    with pytest.raises(ValueError, match=r"may route: odd_router \(OddGate\)\. Name the one.*matchers=\[Matcher"):
        find_moe_layers(block)
    read = lambda gate, args, kwargs, output: (output.flatten(0, -2), None)  # noqa: E731
    from mindvl.routing.choices import Choice

    matcher = Matcher("odd", "OddGate", "output", lambda *hooked: Choice(*read(*hooked)), num_experts=6)
    with RoutingRecorder(block, matchers=[matcher]) as recorder:
        output = block(torch.tensor([[0, 1, 3]]))
    assert np.array_equal(recorder.recording().sample(0).ids[:, 0], output[0])
    nameless = Matcher("odd", "OddGate", "output", lambda *hooked: Choice(*read(*hooked)))
    with pytest.raises(ValueError, match=r"odd_router does not say how many experts"):
        find_moe_layers(block, [nameless])


def test_layers_that_differ_in_experts_are_refused_and_can_be_chosen():
    model = make("qwen3_moe", BASE)
    model.model.layers[1].mlp.experts.num_experts = 4
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.experts has 8, model\.layers\.1\.mlp\.experts has 4"):
        find_moe_layers(model)
    assert [layer.num_experts for layer in find_moe_layers(model, only=r"layers\.[02]\.")] == [8, 8]
    with pytest.raises(ValueError, match=r"only='layers\.9' matches none of the 3 MoE layers"):
        find_moe_layers(model, only=r"layers.9")


def test_the_table_has_the_papers_twenty_models_and_hooks_classes_that_a_matcher_knows():
    import re

    table = matchers_table().splitlines()
    assert len(table) == 2 + len(FAMILIES) and len({line.count("|") for line in table}) == 1
    for family in FAMILIES:
        known = [matcher for matcher in MATCHERS if re.fullmatch(matcher.module, family.module.split()[0])]
        assert known and (known[0].read or known[0].where == "inside"), family.name
        assert f"| {family.name} | {family.model} | `{family.module}` |" in matchers_table()
    assert len({family.model for family in FAMILIES[:20]}) == 20
