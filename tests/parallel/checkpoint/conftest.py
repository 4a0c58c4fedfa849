"""A world of one rank, and a small model with its optimizer."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mindvl.parallel.checkpoint.saves import Checkpoints, Saves


@pytest.fixture(scope="module")
def world():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def saves(world):
    return lambda **settings: Saves(Checkpoints(**settings), 0, 1, mesh={"shard": 1})


@pytest.fixture
def trained():
    """A model and an AdamW that has taken a step."""

    def make(seed: int = 0, width: int = 5):
        torch.manual_seed(seed)
        model = nn.Module()
        model.model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        model.model.register_buffer("count", torch.tensor(seed))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 + seed)
        model.model(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return model, optimizer

    return make


@pytest.fixture
def rest():
    """What Lightning hands over beside the weights."""
    return lambda step=1, **more: {"global_step": step, "optimizer_states": [], "state_dict": {}, **more}
