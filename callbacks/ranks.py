"""What every rank of a run has to say, brought together on each of them."""

from __future__ import annotations

import json

import torch
from lightning.pytorch.strategies import Strategy


def from_every_rank(mine: list, strategy: Strategy, world_size: int) -> list[list]:
    """What each rank states, by rank; every rank must ask, with something that JSON can hold.

    It travels as text: ranks may say different things, and counts beyond 2^24 stay exact on devices without float64.
    """
    if world_size == 1:
        return [mine]
    text = torch.frombuffer(bytearray(json.dumps(mine), "ascii"), dtype=torch.uint8).to(strategy.root_device)
    lengths = strategy.all_gather(torch.tensor([len(text)], device=text.device)).flatten().tolist()
    padded = torch.nn.functional.pad(text, (0, max(lengths) - len(text)))
    gathered = strategy.all_gather(padded).reshape(world_size, -1).cpu()
    rows = zip(gathered, lengths, strict=True)
    return [json.loads(bytes(row[:length].tolist())) for row, length in rows]


def data_place(strategy: Strategy) -> tuple[int, int]:
    """Which share of the data this rank reads, and of how many; ranks that split a model may read the same."""
    sampler = getattr(strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
    return sampler["rank"], sampler["num_replicas"]
