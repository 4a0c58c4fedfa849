"""Families whose modelling file lies on the hub, not in transformers: small stand-ins with their class names and rules.

Each stand-in keeps what the recorder depends on: where the choice is made, in which tensors it appears, what drops or
samples. The witness is what ran: a token's output has a gradient with respect to exactly the experts that worked on it,
taken in the very forward pass that was recorded, so that noise and sampling in training are covered.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mindvl.routing.matchers import find_moe_layers
from mindvl.routing.recorder import RoutingRecorder

E, K, WIDTH = 8, 2, 16


def experts():
    return nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(E)])


def run(modules, tokens, ids, weights):
    """Each expert on its tokens, weighted and added up."""
    output = torch.zeros_like(tokens)
    for number, expert in enumerate(modules):
        token, slot = (ids == number).nonzero(as_tuple=True)
        if len(token):
            output = output.index_add(0, token, expert(tokens[token]) * weights[token, slot, None])
    return output


class _LinearGate(nn.Module):
    """Gate, softmax, top-k and renormalisation inside the block's forward."""

    gate_name = "gate"

    def __init__(self):
        super().__init__()
        setattr(self, self.gate_name, nn.Linear(WIDTH, E, bias=False))
        self.experts, self.num_experts = experts(), E

    def forward(self, hidden):
        tokens = hidden.view(-1, WIDTH)
        logits = self.logits(hidden, tokens)
        weights, ids = torch.topk(F.softmax(logits, dim=1, dtype=torch.float), K, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        return run(self.experts, tokens, ids, weights).view(hidden.shape)

    def logits(self, hidden, tokens):
        return getattr(self, self.gate_name)(tokens)


class MixtralSparseMoeBlock(_LinearGate):  # LLaMA-MoE v2; the class of transformers 5 has no list of experts
    pass


class MiniCPMMoE(_LinearGate):
    pass


class XverseMoEMLP(_LinearGate):
    gate_name = "router"

    def __init__(self):
        super().__init__()
        self.shared_experts, self.num_shared_experts = nn.Linear(WIDTH, WIDTH), 2

    def forward(self, hidden):
        return super().forward(hidden) + self.shared_experts(hidden)


class ParallelAttention_router(nn.Module):
    """Attention between experts instead of a linear map: each expert's score mixes the others' values."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, E, bias=False) for _ in range(3))

    def forward(self, hidden):
        query, key, value = (each(hidden).flatten(0, 1)[..., None] for each in (self.query, self.key, self.value))
        return (F.softmax(query @ key.mT, dim=-1) @ value)[..., 0]


class YuanMoeLayer(_LinearGate):
    def __init__(self):
        super().__init__()
        self.gate = ParallelAttention_router()

    def logits(self, hidden, tokens):
        return self.gate(hidden)


class GRINMoESparseMoeBlock(nn.Module):
    """Sparsemixer: the best expert, then the best of the others; in training both are sampled (Gumbel)."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts, self.num_experts = nn.Linear(WIDTH, E, bias=False), experts(), E

    def forward(self, hidden):
        tokens = hidden.view(-1, WIDTH)
        scores = self.gate(tokens)
        first = self._pick(scores)
        second = self._pick(scores.scatter(-1, first, -math.inf))
        weights = torch.concat([F.softmax(scores, -1).gather(-1, each) for each in (first, second)], dim=-1)
        return run(self.experts, tokens, torch.concat([first, second], dim=-1), weights).view(hidden.shape)

    def _pick(self, scores):
        noise = -torch.empty_like(scores).exponential_().log() if self.training else 0
        return (scores + noise).max(-1, keepdim=True)[1]


class TopKBalancedNoisyGate(nn.Module):
    """One more than k is looked at; noise on the logits in training."""

    def __init__(self):
        super().__init__()
        self.gate_network, self.num_experts = nn.Linear(WIDTH, E, bias=False), E

    def forward(self, tokens):
        logits = self.gate_network(tokens)
        logits = logits + torch.randn_like(logits) if self.training else logits
        top, ids = logits.topk(K + 1, dim=1)
        return {"topK_indices": ids[:, :K], "topK_scores": F.softmax(top[:, :K], -1), "load": torch.tensor(-1)}


class LinearGLUExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = experts()

    def forward(self, tokens, ids, weights):
        return run(self.experts, tokens, ids, weights)


class LinearGLUMoELayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.calculator = TopKBalancedNoisyGate(), LinearGLUExperts()

    def forward(self, hidden):
        tokens = hidden.reshape(-1, WIDTH)
        chosen = self.gate(tokens)
        return self.calculator(tokens, chosen["topK_indices"], chosen["topK_scores"]).view(hidden.shape)


class MoEGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.n_routed_experts = nn.Parameter(torch.randn(E, WIDTH)), E

    def forward(self, hidden):
        weights, ids = F.linear(hidden.view(-1, WIDTH), self.weight).softmax(-1).topk(K, dim=-1, sorted=False)
        return ids, weights, None


class DeepseekMoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts, self.shared_experts = MoEGate(), experts(), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden):
        ids, weights, _ = self.gate(hidden)
        return run(self.experts, hidden.view(-1, WIDTH), ids, weights).view(hidden.shape) + self.shared_experts(hidden)


class HFOpenMoeTop2Router(nn.Module):
    """Top-2 with room for two tokens per expert; second choices queue behind all first ones."""

    def __init__(self):
        super().__init__()
        self.k_value = 2

    def forward(self, inputs):
        probabilities, capacity = F.softmax(inputs, dim=-1), 2
        first = F.one_hot(probabilities.argmax(-1), E)
        second = F.one_hot(probabilities.masked_fill(first.bool(), -math.inf).argmax(-1), E)
        places = (first.cumsum(0) - 1, second.cumsum(0) - 1 + first.sum(0))
        mask = torch.zeros((*inputs.shape, capacity), dtype=torch.bool)
        for chosen, place in zip((first, second), places, strict=True):
            token, expert = (chosen.bool() & (place < capacity)).nonzero(as_tuple=True)
            mask[token, expert, place[token, expert]] = True
        return mask.sum((0, 2)), mask * probabilities[..., None], mask


class HFOpenMoeSparseMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.router = nn.Linear(WIDTH, E, bias=False), HFOpenMoeTop2Router()
        self.experts, self.num_experts = experts(), E

    def forward(self, hidden):
        tokens = hidden.reshape(-1, WIDTH)
        _, combine, mask = self.router(inputs=self.gate(tokens))
        sent = torch.einsum("tec,th->ech", mask.float(), tokens)
        done = torch.stack([expert(places) for expert, places in zip(self.experts, sent, strict=True)])
        return torch.einsum("tec,ech->th", combine, done).view(hidden.shape)


class Model(nn.Module):
    def __init__(self, block, num_layers=2):
        super().__init__()
        self.embed, self.layers = nn.Embedding(32, WIDTH), nn.ModuleList([block() for _ in range(num_layers)])

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return hidden


def record(block, *, training, weights=False):
    """The recording of two rows of nine tokens, and the outputs of each block in that forward pass."""
    torch.manual_seed(4)
    model = Model(block).train(training)
    outputs = []
    for layer in model.layers:
        layer.register_forward_hook(lambda layer, args, output: outputs.append(output.reshape(-1, WIDTH)))
    with RoutingRecorder(model, weights=weights) as recorder:
        model(torch.randint(0, 32, (2, 9)))
    return model, recorder.recording(), outputs


def experts_that_ran(block, output):
    modules = block.experts if hasattr(block, "experts") else block.calculator.experts
    sets = []
    for token in output:
        gradients = torch.autograd.grad(
            token.sum(), [expert.weight for expert in modules], retain_graph=True, allow_unused=True
        )
        sets.append({number for number, each in enumerate(gradients) if each is not None and each.abs().sum() > 0})
    return sets


BLOCKS = {
    "LLaMA-MoE v2": (MixtralSparseMoeBlock, 0),
    "MiniCPM-MoE": (MiniCPMMoE, 0),
    "XVERSE-MoE": (XverseMoEMLP, 2),
    "Yuan2-M32": (YuanMoeLayer, 0),
    "GRIN-MoE": (GRINMoESparseMoeBlock, 0),
    "LLaMA-MoE v1": (LinearGLUMoELayer, 0),
    "DeepSeek-MoE": (DeepseekMoE, 1),
    "OpenMoE": (HFOpenMoeSparseMLP, 0),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("family", BLOCKS)
def test_recorded_experts_are_those_that_ran(family, training):
    block, shared = BLOCKS[family]
    model, recording, outputs = record(block, training=training)
    assert (recording.meta.num_experts, recording.meta.k, recording.meta.shared_experts) == (E, K, shared)
    assert len(find_moe_layers(model)) == len(recording.meta.layers) == 2
    recorded = np.concatenate(list(recording))
    for number, (layer, output) in enumerate(zip(model.layers, outputs, strict=True)):
        assert [set(row) - {-1} for row in recorded[:, number].tolist()] == experts_that_ran(layer, output)
    assert len(np.unique(recorded)) >= 6


@pytest.mark.parametrize("family", ["MiniCPM-MoE", "LLaMA-MoE v1", "DeepSeek-MoE"])
def test_the_heaviest_expert_comes_first(family):
    _, recording, _ = record(BLOCKS[family][0], training=False, weights=True)
    for number in range(2):
        weights = recording.sample(number).weights
        assert (weights[..., 0] >= weights[..., 1]).all() and (weights[..., 1] > 0).all()


def test_sparsemixers_first_expert_is_the_gates_best_in_evaluation_and_sampled_in_training():
    model, recording, _ = record(GRINMoESparseMoeBlock, training=False)
    torch.manual_seed(4)
    Model(GRINMoESparseMoeBlock)
    hidden = model.embed(torch.randint(0, 32, (2, 9))).view(-1, WIDTH)
    order = model.layers[0].gate(hidden).argsort(-1, descending=True)[:, :2]
    assert np.array_equal(np.concatenate(list(recording))[:, 0], order)
    _, sampled, _ = record(GRINMoESparseMoeBlock, training=True)
    assert not np.array_equal(np.concatenate(list(sampled))[:, 0], order)


def test_openmoe_drops_the_tokens_for_which_an_expert_has_no_room():
    _, recording, _ = record(HFOpenMoeSparseMLP, training=False)
    recorded = np.concatenate(list(recording))
    used = np.bincount(recorded[:, 0][recorded[:, 0] >= 0], minlength=E)
    assert used.max() == 2 and (recorded[:, 0] == -1).sum() == 2 * len(recorded) - used.sum() > 0


def test_a_block_that_calls_topk_twice_is_refused():
    class MiniCPMMoE(_LinearGate):
        def logits(self, hidden, tokens):
            logits = super().logits(hidden, tokens)
            return logits + 0 * torch.topk(logits, 1, dim=-1)[0]

    with pytest.raises(ValueError, match=r"layers\.0 called torch\.topk 2 times on 18 tokens and 8 experts"):
        record(MiniCPMMoE, training=False)


def test_a_watched_block_that_fails_leaves_nothing_behind():
    class MiniCPMMoE(_LinearGate):
        broken = True

        def logits(self, hidden, tokens):
            if self.broken:
                raise RuntimeError("no gate today")
            return super().logits(hidden, tokens)

    model = Model(MiniCPMMoE)
    ids = torch.arange(6)[None]
    with RoutingRecorder(model) as recorder:
        with pytest.raises(RuntimeError, match="no gate today"):
            model(ids)
        assert not torch.overrides._get_current_function_mode_stack()
        for layer in model.layers:
            layer.broken = False
        model(ids)
    assert [ids.shape for ids in recorder.recording()] == [(6, 2, K)]
