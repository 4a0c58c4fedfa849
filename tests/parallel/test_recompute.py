"""Whatever is computed again, gradients are the same; what is kept is less."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mindvl.parallel.recompute import recompute


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.products += operator in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return operator(*args, **(kwargs or {}))


def step(how):
    """Gradients, elements kept for backward, and matrix products of a step of two units."""
    torch.manual_seed(0)
    units = [nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16), nn.GELU()) for _ in range(2)]
    recompute(units, how)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
        Counting() as seen,
    ):
        units[1](units[0](torch.randn(32, 16))).sum().backward()
    return [p.grad for unit in units for p in unit.parameters()], sum(kept), seen.products


@pytest.mark.parametrize("how", ["selective", "full"])
def test_gradients_do_not_depend_on_what_is_computed_again(how):
    ours, theirs = step(how)[0], step("none")[0]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_full_runs_every_product_of_the_forward_pass_again_and_selective_none():
    products = {how: step(how)[2] for how in ("none", "selective", "full")}
    assert products["selective"] == products["none"]
    assert products["full"] >= products["none"] + 3  # the last product of a unit is not needed again


def test_full_keeps_the_inputs_of_units_alone():
    assert step("full")[1] < 0.3 * step("none")[1]
