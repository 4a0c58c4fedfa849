"""Ranks of test_vision_balance.py: balance_ranks.py FOLDER. Each rank of two and three runs a pack of its own.

Writes FOLDER/<ranks>.<rank>.result: by scenario the loss, gradients summed over ranks, and what the balance reports.
"""

import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from harness import Case, run_case
from worlds import run_worlds

from mindvl.model.mindvl import MindVL
from mindvl.model.vision import vision_inputs
from mindvl.parallel.vision_balance import PictureBalance, VisionBalance

FOLDER = Path(sys.argv[1])


def run(size: int) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    config, weights, packs, scenarios = torch.load(FOLDER / "models", weights_only=False)
    model = MindVL(config).eval()
    model.load_state_dict(weights)
    results = {}
    for name, (settings, numbers) in scenarios[size].items():
        model.zero_grad()
        model.picture_balance = PictureBalance(
            VisionBalance(**settings),
            dist.group.WORLD,
            cost=lambda patches: patches.astype(float),
            lay_out=partial(vision_inputs, merge=2, window_tokens=config.window_tokens),
            merge=2,
            feature_bytes=128,
            passes=3,
        )
        loss = model(packed=packs[numbers[rank]]).loss
        loss.backward()
        gradients = {}
        for key, parameter in model.named_parameters():
            gradients[key] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            dist.all_reduce(gradients[key])
        report = model.picture_balance.report()
        results[name] = {"loss": loss.detach(), "gradients": gradients, "report": report}
    torch.save(results, FOLDER / f"{size}.{rank}.result")


def two() -> None:
    run(2)
    settings = VisionBalance(trigger=1.0, flops_per_byte=0.0)
    run_case(Case("balanced", "qwen3", {"vision_balance": settings, "recompute": "selective"}), FOLDER)


if __name__ == "__main__":
    run_worlds({1: lambda: run_case(Case("alone", "qwen3"), FOLDER), 2: two, 3: lambda: run(3)})
