"""Mixtures of experts: routers that choose in fp32, and experts in the precision of the step.

Which expert a token goes to hangs on differences in the third digit, and bf16 has two. transformers' routers multiply
in fp32 only where nobody casts: under autocast their product is bf16 again. Ours take their place with the same
parameter names (`weight`, and DeepSeek-V3's buffer `e_score_correction_bias`, which stays fp32 in a bf16 model, because
steps of 0.001 get lost next to a bf16 number above 0.25):

    SoftmaxRouter   Qwen3-MoE     shares = softmax(logits), the k largest, renormalised
    SigmoidRouter   DeepSeek-V3   scores = sigmoid(logits), the k largest of scores + bias (in the best groups);
                                  their weights are the scores without the bias

The experts have the opposite fault: grouped products are not on autocast's list, so under bf16-mixed they run in fp32.
`register_grouped_experts` makes `mindvl.ops.experts` their forward pass, which gets weights and states in the autocast
precision.
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from mindvl.ops.experts import expert_layer
from mindvl.ops.precision import at_least_fp32, step_dtype

GROUPED = "mindvl_grouped_mm"
BIAS = "e_score_correction_bias"


class _Fp32Router:
    """Common to both: products in fp32 at least, whatever autocast says."""

    weight: nn.Parameter
    hidden_dim: int

    def logits(self, hidden_states: Float[Tensor, "*rows dim"]) -> Float[Tensor, "tokens experts"]:
        rows = hidden_states.reshape(-1, self.hidden_dim)
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(at_least_fp32(rows), at_least_fp32(self.weight))


class SoftmaxRouter(_Fp32Router, Qwen3MoeTopKRouter):
    """Takes the place of Qwen3-MoE's router and shares its weight."""

    def __init__(self, stock: nn.Module):
        nn.Module.__init__(self)
        self.top_k, self.num_experts, self.hidden_dim = stock.top_k, stock.num_experts, stock.hidden_dim
        self.norm_topk_prob = stock.norm_topk_prob
        self.weight = stock.weight

    @staticmethod
    def shares(logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
        """What a token would give to each expert; sums to 1."""
        return logits.softmax(dim=-1)

    def forward(
        self, hidden_states: Float[Tensor, "*rows dim"]
    ) -> tuple[Float[Tensor, "tokens experts"], Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """Logits, weights of the chosen experts, and which they are."""
        logits = self.logits(hidden_states)
        weights, chosen = self.shares(logits).topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, chosen


class SigmoidRouter(_Fp32Router, DeepseekV3TopkRouter):
    """Takes the place of DeepSeek-V3's router and shares its weight and bias (arXiv 2412.19437, eq. 12-16)."""

    def __init__(self, stock: nn.Module):
        nn.Module.__init__(self)
        self.top_k, self.num_experts, self.hidden_dim = stock.top_k, stock.num_experts, stock.hidden_dim
        self.num_group, self.topk_group = stock.num_group, stock.topk_group
        self.norm_topk_prob, self.routed_scaling_factor = stock.norm_topk_prob, stock.routed_scaling_factor
        self.weight = stock.weight
        self.register_buffer(BIAS, at_least_fp32(stock.e_score_correction_bias))

    def _apply(self, fn, recurse: bool = True):
        """Moves between devices as ever; a cast to fewer bits leaves the bias out."""
        before = getattr(self, BIAS)
        super()._apply(fn, recurse)
        moved = getattr(self, BIAS)
        if moved.dtype != at_least_fp32(moved).dtype:
            setattr(self, BIAS, before.to(moved.device, torch.float32))
        return self

    @staticmethod
    def shares(logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
        """Scores over their sum: what a token would give to each expert, without the bias."""
        scores = logits.sigmoid()
        return scores / (scores.sum(dim=-1, keepdim=True) + 1e-20)

    def forward(
        self, hidden_states: Float[Tensor, "*rows dim"]
    ) -> tuple[Float[Tensor, "tokens experts"], Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """Logits, weights of the chosen experts, and which they are."""
        logits = self.logits(hidden_states)
        scores = logits.sigmoid()
        grouped = (scores.detach() + getattr(self, BIAS)).unflatten(-1, (self.num_group, -1))
        if self.topk_group < self.num_group:
            best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.topk_group, dim=-1).indices
            closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, False)
            grouped = grouped.masked_fill(closed[..., None], float("-inf"))
        chosen = grouped.flatten(-2).topk(self.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return logits, weights * self.routed_scaling_factor, chosen


Router = SoftmaxRouter | SigmoidRouter


def replace_routers(model: nn.Module) -> int:
    """Swap stock routers for ours; returns how many. Routers of other families stay as they are."""
    ours = {Qwen3MoeTopKRouter: SoftmaxRouter, DeepseekV3TopkRouter: SigmoidRouter}
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in ours:
                setattr(parent, name, ours[type(child)](child))
                count += 1
    return count


def routers_of(model: nn.Module) -> dict[int, Router]:
    """Our routers by the number of their decoder layer, in order."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, SoftmaxRouter | SigmoidRouter):
            found[int(re.findall(r"(?:^|\.)layers\.(\d+)\.", path)[-1])] = module
    return found


def grouped_experts_forward(
    experts: nn.Module,
    hidden_states: Float[Tensor, "tokens dim"],
    top_k_index: Int[Tensor, "tokens k"],
    top_k_weights: Float[Tensor, "tokens k"],
) -> Float[Tensor, "tokens dim"]:
    """A stacked layer of gated experts, in the autocast precision where autocast is on.

    Experts of another make (biases, other activations) run as transformers writes them.
    """
    if not _are_plain(experts):
        return ALL_EXPERTS_FUNCTIONS["grouped_mm"](experts, hidden_states, top_k_index, top_k_weights)
    dtype = step_dtype(hidden_states)
    return expert_layer(
        hidden_states.to(dtype),
        experts.gate_up_proj.to(dtype),
        experts.down_proj.to(dtype),
        top_k_index,
        top_k_weights,
        some_elsewhere=experts._is_expert_parallel,
    )


def _are_plain(experts: nn.Module) -> bool:
    """Whether experts are down(silu(gate) * up), with gate and up stacked as [gate; up] and no biases."""
    gated = experts.has_gate and experts.is_concatenated and type(experts.act_fn).__name__ in ("SiLU", "SiLUActivation")
    return gated and not (experts.has_bias or experts.is_transposed or experts.has_post_expert_norm)


def register_grouped_experts(config: PreTrainedConfig) -> str:
    """Make our experts known to transformers, and return the implementation that a language model shall use.

    One that the config names stays. Raises ValueError for "batched_mm", which copies an expert's weights for each
    token: 88 times the time of grouped products over 2,048 tokens and 16 experts.
    """
    named = getattr(config, "_experts_implementation", None)
    if named == "batched_mm":
        raise ValueError(
            "language.experts_implementation is batched_mm, which copies the weights of an expert for each token; "
            "leave it out, or use grouped_mm"
        )
    ALL_EXPERTS_FUNCTIONS.register(GROUPED, grouped_experts_forward)
    return named or GROUPED
