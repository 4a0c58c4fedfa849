"""Linear maps by oneDNN where it pays, and modules that share the parameters of those whose place they take."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mindvl.ops import linear as ops
from mindvl.ops.linear import Linear, linear, onednn_linear, why_not_onednn

LARGE = (300, 160, 96)
"""Rows, inputs and outputs of a product that oneDNN gets."""
needs_onednn = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a PyTorch without oneDNN")


def inputs(*, shape=LARGE, dtype=torch.float32):
    torch.manual_seed(0)
    rows, width, outputs = shape
    shapes = ((rows, width), (outputs, width), (outputs,))
    return [torch.randn(each, dtype=dtype, requires_grad=True) for each in shapes]


@pytest.fixture
def products(monkeypatch):
    """The shapes that oneDNN was asked for."""
    asked, original = [], ops._onednn

    def counted(left, right, bias=None):
        asked.append((*left.shape, right.shape[0]))
        return original(left, right, bias)

    monkeypatch.setattr(ops, "_onednn", counted)
    return asked


@needs_onednn
def test_the_three_products_of_a_large_layer_are_onednns_and_those_of_a_frozen_weight_two(products):
    x, weight, bias = inputs()
    onednn_linear(x, weight, bias).sum().backward()
    assert products == [(300, 160, 96), (300, 96, 160), (96, 300, 160)]
    products.clear()
    onednn_linear(x, weight.detach(), bias).sum().backward()
    assert products == [(300, 160, 96), (300, 96, 160)]


@needs_onednn
@pytest.mark.parametrize(
    "case",
    ["small", "bf16", "fp64", "autocast", "no rows", "a weight of another precision", "a tensor of another kind"],
)
def test_what_is_not_large_plain_fp32_stays_with_pytorch(case, products):
    shapes = {"small": (3, 8, 4), "no rows": (0, 160, 96)}
    dtypes = {"bf16": torch.bfloat16, "fp64": torch.float64}
    x, weight, bias = inputs(shape=shapes.get(case, LARGE), dtype=dtypes.get(case, torch.float32))
    if case == "a weight of another precision":
        with pytest.raises(RuntimeError):
            onednn_linear(x, weight.bfloat16(), None)
    elif case == "a tensor of another kind":
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            assert onednn_linear(torch.empty(300, 160), torch.empty(96, 160), None).shape == (300, 96)
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            ours, theirs = onednn_linear(x, weight, bias), F.linear(x, weight, bias)
        assert torch.equal(ours, theirs)
    assert products == []


@pytest.mark.parametrize(
    ("vendor", "capability", "device", "dtype", "reason"),
    [
        (False, "AVX512", "cpu", torch.float32, None),
        (True, "AVX512", "cpu", torch.float32, "MKL is as fast"),
        (False, "AVX2", "cpu", torch.float32, "no AVX-512"),
        (False, "AVX512", "meta", torch.float32, "not on meta"),
        (False, "AVX512", "cpu", torch.bfloat16, "fp32 products"),
    ],
)
def test_it_is_chosen_by_what_the_processor_is_not_by_a_clock(vendor, capability, device, dtype, reason, monkeypatch):
    monkeypatch.setattr(ops, "_made_by_intel", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    said = why_not_onednn(device, dtype)
    assert said is None if reason is None else reason in said


def test_a_module_shares_the_parameters_and_the_result_of_the_stock_one():
    stock = nn.Linear(160, 96)
    ours, x = Linear(stock), torch.randn(2, 150, 160)
    assert ours.weight is stock.weight and ours.bias is stock.bias and [*ours.state_dict()] == [*stock.state_dict()]
    assert (ours.in_features, ours.out_features) == (160, 96) and isinstance(ours, nn.Linear)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-5)


def test_linear_passes_a_numerical_gradient_check():
    assert torch.autograd.gradcheck(linear, inputs(shape=(3, 4, 2), dtype=torch.float64))
