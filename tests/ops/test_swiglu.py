import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from mindvl.ops.swiglu import SwiGLU, swiglu, swiglu_reference


def test_swiglu_equals_its_definition_forward_and_backward():
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 5, 8, requires_grad=True) for _ in range(2))
    fast, slow = swiglu(gate, up), swiglu_reference(gate, up)
    torch.testing.assert_close(fast, slow)
    grad = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, (gate, up), grad), torch.autograd.grad(slow, (gate, up), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_swiglu_passes_a_numerical_gradient_check():
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu, (gate, up))


def test_swiglu_does_not_change_its_inputs():
    gate, up, grad = (torch.randn(3, 4) for _ in range(3))
    copies = [tensor.clone() for tensor in (gate, up, grad)]
    swiglu(gate.requires_grad_(), up.requires_grad_()).backward(grad)
    for tensor, copy in zip((gate, up, grad), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_under_bf16_autocast_the_module_stays_in_bf16_and_trains_fp32_weights():
    ours = SwiGLU(Qwen3MLP(Qwen3Config(hidden_size=8, intermediate_size=16)))
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(torch.randn(3, 8))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert all(parameter.grad.dtype == torch.float32 for parameter in ours.parameters())


def test_the_module_shares_the_weights_and_the_result_of_the_stock_one():
    torch.manual_seed(0)
    stock = Qwen3MLP(Qwen3Config(hidden_size=8, intermediate_size=16))
    ours, x = SwiGLU(stock), torch.randn(3, 8)
    assert [*ours.state_dict()] == [*stock.state_dict()] and ours.up_proj.weight is stock.up_proj.weight
    torch.testing.assert_close(ours(x), stock(x))
