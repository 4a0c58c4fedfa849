"""What is handed to liger-kernel, on doubles of its functions in plain PyTorch."""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from mindvl.ops.backends import liger
from mindvl.ops.loss import cross_entropy_reference
from mindvl.ops.rms_norm import rms_norm_reference


def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    assert casting_mode == "gemma" and not in_place and X.is_contiguous()
    exact = X.float()
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps) * (offset + W.float())).to(X.dtype)


def liger_swiglu(a, b):
    return F.silu(a) * b


def liger_fused_linear_cross_entropy(
    input, weight, target, bias=None, ce_weight=None, ignore_index=-100, lse_square_scale=0.0, label_smoothing=0.0,
    reduction="mean", softcap=None, return_z_loss=False, accum_dtype=None,
):  # fmt: skip
    assert len(input) and input.dtype == weight.dtype and accum_dtype == torch.float32
    if not input.requires_grad:  # then it computes no gradient for the weight either
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    logits = F.linear(input, weight, bias).float()
    return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction=reduction)


@pytest.fixture(autouse=True)
def double(monkeypatch):
    functional = ModuleType("liger_kernel.transformers.functional")
    for function in (liger_rms_norm, liger_swiglu, liger_fused_linear_cross_entropy):
        setattr(functional, function.__name__, function)
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    liger._why_not_this_version.cache_clear()
    yield functional
    liger._why_not_this_version.cache_clear()


def test_rms_norm_is_fp32_inside_and_has_the_precision_of_the_step():
    x, weight = torch.randn(2, 3, 8), torch.randn(8)
    torch.testing.assert_close(liger.rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))
    with torch.autocast("cpu", torch.bfloat16):
        assert liger.rms_norm(x, weight, 1e-6).dtype == torch.bfloat16


def test_swiglu_gates_with_its_first_argument():
    gate, up = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(liger.swiglu(gate, up), F.silu(gate) * up)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_cross_entropy_is_summed_and_leaves_padding_out(bias, autocast):
    torch.manual_seed(0)
    rows, weight = torch.randn(6, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    bias = torch.randn(20) if bias else None
    targets = torch.tensor([3, -100, 19, 0, 5, 5])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = liger.cross_entropy(rows, weight, bias, targets)
    theirs = cross_entropy_reference(rows, weight, bias, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=2e-2 if autocast else 1e-6, atol=0)
    for gradient in torch.autograd.grad(ours, (rows, weight)):
        assert gradient.dtype == torch.float32


def test_without_rows_the_loss_is_zero_with_zero_gradients_and_no_kernel_is_called():
    rows, weight = torch.randn(0, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    loss = liger.cross_entropy(rows, weight, None, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(weight.grad, torch.zeros(20, 8)) and rows.grad.shape == (0, 8)


def test_reasons(monkeypatch):
    assert liger.why_not("cpu", torch.float32) == "its kernels are compiled for cuda and npu, not for cpu"
    assert liger.why_not("cuda", torch.float64) == "its kernels add up in float32"
    monkeypatch.setattr(liger, "find_spec", lambda name: None)
    assert liger.why_not("cuda", torch.bfloat16) == "liger-kernel is not installed"
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    assert liger.why_not("npu", torch.bfloat16) is None


def test_a_head_learns_over_hidden_states_that_need_no_gradient():
    torch.manual_seed(0)
    rows, weight, bias = torch.randn(6, 8), torch.randn(20, 8, requires_grad=True), torch.randn(20, requires_grad=True)
    targets = torch.tensor([3, -100, 19, 0, 5, 5])
    ours = torch.autograd.grad(liger.cross_entropy(rows, weight, bias, targets), (weight, bias))
    theirs = torch.autograd.grad(cross_entropy_reference(rows, weight, bias, targets), (weight, bias))
    torch.testing.assert_close(ours, theirs)


def test_a_version_that_lacks_an_argument_is_refused_with_the_first_that_has_it(double, monkeypatch):
    def before_0_6_2(input, weight, target, bias=None, ignore_index=-100, reduction="mean"):
        raise AssertionError("must not be called")

    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    monkeypatch.setattr(liger, "version", lambda name: "0.6.1")
    double.liger_fused_linear_cross_entropy = before_0_6_2
    assert liger.why_not("cuda", torch.bfloat16) == (
        "liger-kernel 0.6.1 has no accum_dtype in liger_fused_linear_cross_entropy; 0.6.2 is the first that has"
    )
    liger._why_not_this_version.cache_clear()
    del double.liger_swiglu
    double.liger_fused_linear_cross_entropy = liger_fused_linear_cross_entropy
    assert "liger-kernel 0.6.1 has no liger_swiglu" in liger.why_not("npu", torch.bfloat16)


def test_a_package_that_does_not_load_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", None)
    assert liger.why_not("cuda", torch.bfloat16).startswith("liger-kernel cannot be imported (")
