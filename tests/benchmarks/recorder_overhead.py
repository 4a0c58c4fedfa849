"""What recording costs: forward passes of a MindVL with a mixture of experts, with the recorder over without.

The recorder is made and its hooks are set and removed inside the time. Each round runs both sides one after the other
and takes the ratio of their processor times; the row is the median ratio, so that other programs matter little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL
from mindvl.routing.recorder import RoutingRecorder
from tests.benchmarks.midsize import IMAGE_TOKEN, LANGUAGE, VISION, conversations, first_fit
from tests.benchmarks.rows import Row

ROWS = ("recorder_overhead_ratio",)
ROUNDS, TOKEN_BUDGET = 25, 1024
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
    short = [sample for sample in conversations(24) if len(sample.input_ids) <= TOKEN_BUDGET]
    pack = first_fit(short, token_budget=TOKEN_BUDGET)[0]

    @torch.no_grad()
    def plain() -> float:
        return model(packed=pack).loss.item()

    def recorded() -> float:
        with RoutingRecorder(model) as recorder:
            loss = plain()
        tokens = sum(len(ids) for ids in recorder.recording())
        if tokens != pack.num_tokens:
            raise ValueError(f"{tokens} tokens were recorded, the pack holds {pack.num_tokens}")
        return loss

    if plain() != recorded():
        raise ValueError("the recorder changed the loss")
    pairs = [(_processor_s(plain), _processor_s(recorded)) for _ in range(ROUNDS)]
    against = (
        f"forward of {pack.num_tokens} tokens, {LANGUAGE['num_hidden_layers']} MoE layers of {EXPERTS['num_experts']} "
        f"experts, top-{EXPERTS['num_experts_per_tok']}: {statistics.median(plain_s for plain_s, _ in pairs):.3f} s"
    )
    ratio = statistics.median(recorded_s / plain_s for plain_s, recorded_s in pairs)
    return [Row("recorder_overhead_ratio", ratio, "ratio", against)]


def _processor_s(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
