"""A layer of experts beside the bare work in it, forward and backward: sort, gather, two grouped_mm, gate, add up.

2,048 tokens, 32 experts of 512 -> 384 -> 512, four for each token, fp32.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from mindvl.device import keep_freed_memory
from mindvl.model.moe import register_grouped_experts
from tests.benchmarks.clock import best_times_s
from tests.benchmarks.rows import Row

ROWS = ("experts_vs_grouped_mm_ratio",)
TOKENS, DIM, INNER, EXPERTS, TOP_K, ROUNDS = 2048, 512, 384, 32, 4, 9


def measure() -> list[Row]:
    keep_freed_memory()
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "moe_intermediate_size": INNER, "num_experts": EXPERTS}
    config = Qwen3MoeConfig(**sizes, num_experts_per_tok=TOP_K)
    experts = Qwen3MoeExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    states = torch.randn(TOKENS, DIM, requires_grad=True)
    chosen = torch.rand(TOKENS, EXPERTS).topk(TOP_K).indices
    weights = torch.rand(TOKENS, TOP_K, requires_grad=True)

    def layer(implementation: str) -> torch.Tensor:
        config._experts_implementation = implementation
        return experts(states, chosen, weights)

    def bare() -> torch.Tensor:
        flat = chosen.reshape(-1)
        order = flat.argsort()
        offsets = torch.bincount(flat, minlength=EXPERTS).cumsum(0).int()
        tokens = order // TOP_K
        both = torch._grouped_mm(states[tokens], experts.gate_up_proj.transpose(1, 2), offs=offsets)
        gate, up = both.chunk(2, dim=-1)
        rows = torch._grouped_mm(F.silu(gate) * up, experts.down_proj.transpose(1, 2), offs=offsets)
        return torch.zeros_like(states).index_add(0, tokens, rows * weights.reshape(-1, 1)[order])

    def step(forward) -> None:
        experts.zero_grad()
        states.grad = weights.grad = None
        output = forward()
        output.backward(torch.ones_like(output))

    ours = register_grouped_experts(Qwen3MoeConfig())
    for other in (lambda: layer(ours), lambda: layer("grouped_mm")):
        torch.testing.assert_close(other(), bare(), rtol=1e-3, atol=1e-4)
    times_s = best_times_s(
        {
            "ours": lambda: step(lambda: layer(ours)),
            "transformers": lambda: step(lambda: layer("grouped_mm")),
            "bare": lambda: step(bare),
        },
        rounds=ROUNDS,
    )
    against = (
        f"grouped_mm and dispatch alone, {times_s['bare'] * 1e3:.0f} ms; transformers' own layer takes "
        f"{times_s['transformers'] / times_s['bare']:.2f}"
    )
    return [Row("experts_vs_grouped_mm_ratio", times_s["ours"] / times_s["bare"], "ratio", against)]
