"""What recording costs: forward passes of a MindVL with a mixture of experts, with the recorder over without.

The recorder is made and its hooks are set and removed inside the time. Logits of both sides are compared first.
"""

from __future__ import annotations

import torch

from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL
from mindvl.routing.recorder import RoutingRecorder
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.midsize import IMAGE_TOKEN, LANGUAGE, VISION, conversations, first_fit
from tests.benchmarks.rows import Row

ROWS = ("recorder_overhead_ratio",)
ROUNDS = 9
EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 32,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 144,
    "norm_topk_prob": True,
}


def measure() -> list[Row]:
    torch.manual_seed(0)
    model = MindVL(MindVLConfig(VISION, LANGUAGE | EXPERTS, image_token_id=IMAGE_TOKEN)).eval()
    packs = first_fit(conversations(24))[:1]

    @torch.no_grad()
    def plain() -> float:
        return sum(model(packed=pack).loss.item() for pack in packs)

    def recorded() -> float:
        with RoutingRecorder(model) as recorder:
            loss = plain()
        tokens = sum(len(ids) for ids in recorder.recording())
        if tokens != sum(pack.num_tokens for pack in packs):
            raise ValueError(f"{tokens} tokens were recorded, the packs hold {sum(pack.num_tokens for pack in packs)}")
        return loss

    if plain() != recorded():
        raise ValueError("the recorder changed the loss")
    times_s = median_times_s({"plain": plain, "recorded": recorded}, rounds=ROUNDS)
    tokens = sum(pack.num_tokens for pack in packs)
    against = (
        f"forward of {tokens} tokens, {LANGUAGE['num_hidden_layers']} MoE layers of {EXPERTS['num_experts']} experts, "
        f"top-{EXPERTS['num_experts_per_tok']}: {times_s['plain']:.3f} s without, {times_s['recorded']:.3f} s with"
    )
    return [Row("recorder_overhead_ratio", times_s["recorded"] / times_s["plain"], "ratio", against)]
