"""Ranks of test_shared_pack.py: shared_pack_ranks.py FOLDER. Two ranks share a pack per model of FOLDER/models.

Writes FOLDER/<rank>.result: for each model the loss, the losses of each position, and gradients summed over ranks.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from worlds import run_worlds

from mindvl.model.mindvl import MindVL


def two(folder: Path) -> None:
    dist.init_process_group("gloo")
    results = {}
    for name, (config, weights, pack) in torch.load(folder / "models", weights_only=False).items():
        model = MindVL(config).eval()
        model.load_state_dict(weights)
        model.share_packs(dist.group.WORLD)
        loss = model(packed=pack).loss
        loss.backward()
        gradients = {}
        for key, parameter in model.named_parameters():
            total = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(total)
            gradients[key] = total
        each = model(packed=pack, each_loss=True).loss
        results[name] = {"loss": loss.detach(), "each": each, "gradients": gradients}
    torch.save(results, folder / f"{dist.get_rank()}.result")
    dist.destroy_process_group()


if __name__ == "__main__":
    run_worlds({2: lambda: two(Path(sys.argv[1]))})
