"""A layer of experts against a loop that sends each token to its experts one by one."""

import pytest
import torch
from torch.nn import functional as F

from mindvl.ops.experts import expert_layer, grouped_matmul
from mindvl.ops.table import using

ENTRIES = ["per_expert", "grouped_mm", "reference"]


def layer_of_loops(states, gate_up, down, chosen, weights):
    """The definition, token by token and in fp32."""
    outputs = []
    for state, experts, shares in zip(states.float(), chosen.tolist(), weights.float(), strict=True):
        total = torch.zeros_like(state)
        for expert, share in zip(experts, shares, strict=True):
            if expert < len(gate_up):
                gate, up = F.linear(state, gate_up[expert].float()).chunk(2)
                total = total + share * F.linear(F.silu(gate) * up, down[expert].float())
        outputs.append(total)
    return torch.stack(outputs)


def inputs(*, tokens=40, experts=6, k=2, dim=16, inner=8, dtype=torch.float32, unused=(), seed=0):
    torch.manual_seed(seed)
    tensors = [
        torch.randn(tokens, dim),
        torch.randn(experts, 2 * inner, dim) * 0.3,
        torch.randn(experts, dim, inner) * 0.3,
    ]
    scores = torch.rand(tokens, experts)
    scores[:, list(unused)] = -1
    chosen = scores.topk(k, dim=-1).indices
    states, gate_up, down = (tensor.to(dtype).requires_grad_() for tensor in tensors)
    return states, gate_up, down, chosen, torch.rand(tokens, k).requires_grad_()


def gradients(output, layer):
    states, gate_up, down, _, weights = layer
    seed = torch.Generator().manual_seed(1)
    return torch.autograd.grad(
        output, (states, gate_up, down, weights), torch.randn(output.shape, generator=seed).to(output.dtype)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "case", [{}, {"k": 1}, {"k": 6}, {"unused": (0, 3, 5)}, {"tokens": 1}, {"experts": 1, "k": 1}], ids=str
)
def test_grouped_experts_equal_loops_forward_and_backward(case, entry, dtype, tolerance):
    layer = inputs(dtype=dtype, **case)
    with using({"grouped_experts": entry}):
        ours = expert_layer(*layer)
        ours_back = gradients(ours, layer)
    theirs = layer_of_loops(*layer)
    assert ours.dtype == dtype
    for mine, expected in zip((ours, *ours_back), (theirs, *gradients(theirs, layer)), strict=True):
        assert (mine.float() - expected).abs().max() <= tolerance * expected.abs().max()


def test_experts_of_another_rank_add_nothing_and_get_no_gradient():
    states, gate_up, down, chosen, weights = inputs(experts=6)
    here = slice(0, 4)
    layer = states, gate_up[here], down[here], chosen.clamp(max=4), weights
    for entry in ENTRIES:
        with using({"grouped_experts": entry}):
            ours = expert_layer(*layer, some_elsewhere=True)
            back = torch.autograd.grad(ours.sum(), (states, gate_up, weights))
        theirs = layer_of_loops(*layer)
        expected = torch.autograd.grad(theirs.sum(), (states, gate_up, weights))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for mine, other in zip(back, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert (back[2][chosen >= 4] == 0).all()


def test_no_tokens_give_no_rows_and_zero_gradients():
    layer = inputs(tokens=0)
    output = expert_layer(*layer)
    output.sum().backward()
    assert output.shape == (0, 16) and torch.equal(layer[1].grad, torch.zeros_like(layer[1]))


def test_a_token_that_names_an_expert_twice_gets_it_twice():
    states, gate_up, down, chosen, weights = inputs()
    layer = states, gate_up, down, torch.full_like(chosen, 2), weights
    torch.testing.assert_close(expert_layer(*layer), layer_of_loops(*layer), rtol=1e-4, atol=1e-5)


def test_the_layer_passes_a_numerical_gradient_check():
    states, gate_up, down, chosen, weights = inputs(tokens=5, experts=3, dim=3, inner=2)
    tensors = [tensor.detach().double().requires_grad_() for tensor in (states, gate_up, down, weights)]
    assert torch.autograd.gradcheck(lambda s, g, d, w: expert_layer(s, g, d, chosen, w), tensors)


def test_a_traced_layer_needs_no_counts():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rows, weights = torch.empty(8, 16, dtype=torch.bfloat16), torch.empty(3, 4, 16, dtype=torch.bfloat16)
        assert grouped_matmul(rows, weights, torch.empty(3, dtype=torch.int32)).shape == (8, 4)
