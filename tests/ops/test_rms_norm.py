import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from mindvl.ops.rms_norm import RMSNorm, rms_norm, rms_norm_reference


def inputs(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, requires_grad=True), torch.randn(shape[-1], requires_grad=True)


@pytest.mark.parametrize("shape", [(6, 16), (2, 3, 4, 8), (0, 8), (1, 1)])
def test_rms_norm_equals_its_definition_forward_and_backward(shape):
    x, weight = inputs(*shape)
    fast, slow = rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, (x, weight), grad), torch.autograd.grad(slow, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_rms_norm_of_a_zero_row_is_zero_with_finite_gradients():
    x, weight = torch.zeros(2, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    output = rms_norm(x, weight, 1e-6)
    output.sum().backward()
    assert output.eq(0).all() and x.grad.isfinite().all() and weight.grad.isfinite().all()


def test_a_frozen_weight_gets_no_gradient_and_the_input_still_does():
    x, weight = inputs(4, 8)
    rms_norm(x, weight.detach(), 1e-6).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_under_bf16_autocast_the_result_is_bf16_and_gradients_keep_the_precision_of_their_inputs():
    x, weight = inputs(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = rms_norm(x, weight, 1e-6)
    assert output.dtype == torch.bfloat16 and rms_norm(x, weight, 1e-6).dtype == torch.float32
    torch.testing.assert_close(output.float(), rms_norm_reference(x, weight, 1e-6), rtol=1e-2, atol=1e-2)
    output.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_the_module_shares_the_weight_and_the_result_of_the_stock_one():
    stock = Qwen3RMSNorm(8, eps=1e-5)
    torch.nn.init.normal_(stock.weight)
    ours = RMSNorm(stock)
    x = torch.randn(3, 8)
    assert ours.weight is stock.weight and [*ours.state_dict()] == [*stock.state_dict()]
    torch.testing.assert_close(ours(x), stock(x))
