"""A step of two layers whose bytes can be counted by hand."""

import pytest
import torch
from torch import nn

from mindvl.parallel.memory_trace import REST, MemoryTrace


class Square(nn.Module):
    """x -> x * x + x: keeps its input, makes two tensors."""

    def forward(self, x):
        return x * x + x


@pytest.fixture
def stretches():
    first, second = Square(), Square()
    model = nn.Sequential(nn.Linear(256, 256, bias=False), first, second)
    rows = torch.ones(256, 256)
    with MemoryTrace(model, [rows]) as trace:
        trace.around(first, "first", owner="ours")
        trace.around(second, "second", owner="ours")
        model(rows).sum().backward()
    return trace.stretches()


TENSOR = 256 * 256 * 4


def test_stretches_come_in_the_order_of_the_step(stretches):
    names = [(each.name, each.during) for each in stretches if each.name != REST]
    assert names == [("first", "forward"), ("second", "forward"), ("second", "backward"), ("first", "backward")]


def test_a_layer_grows_by_what_it_keeps_and_peaks_with_what_it_makes(stretches):
    first, second, *_ = [each for each in stretches if each.name != REST]
    assert first.grown["ours"] == TENSOR  # its result; the square is added to and gone
    assert first.most["ours"] == 2 * TENSOR
    assert (second.grown, second.most) == (first.grown, first.most)


def test_what_is_made_ends_and_gradients_of_parameters_are_not_counted(stretches):
    left = sum(sum(each.grown.values()) for each in stretches)
    assert 0 <= left < 64  # a scalar or two


def test_inputs_and_parameters_are_not_counted():
    model, rows = nn.Linear(8, 8), torch.ones(4, 8)
    with MemoryTrace(model, [rows]) as trace:
        rows.t()
        model.weight.detach().view(-1)
    assert trace.stretches() == []


def test_tensors_made_inside_a_module_are_its_owners():
    model = nn.Sequential(nn.Linear(8, 8), Square())
    with MemoryTrace(model) as trace:
        trace.inside(model[1], owner="inner")
        result = model(torch.ones(2, 8))
    grown = trace.stretches()[0].grown
    assert grown["inner"] == result.nbytes == 64
    assert grown[REST] > 0
