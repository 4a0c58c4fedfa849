import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from mindvl.ops.rotary import apply_rotary


def angles(tokens, head_dim):
    half = torch.randn(tokens, head_dim // 2)
    both = torch.cat((half, half), dim=-1)
    return both.cos(), both.sin()


def test_apply_rotary_equals_transformers_forward_and_backward():
    torch.manual_seed(0)
    states = torch.randn(7, 3, 8, requires_grad=True)
    cos, sin = angles(7, 8)
    ours, (theirs, _) = apply_rotary(states, cos, sin), apply_rotary_pos_emb_vision(states, states, cos, sin)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(output, states, weight)[0] for output in (ours, theirs)))


def test_a_rotation_keeps_the_length_of_every_head():
    states = torch.randn(5, 2, 8)
    torch.testing.assert_close(apply_rotary(states, *angles(5, 8)).norm(dim=-1), states.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_precision_of_the_states(dtype):
    assert apply_rotary(torch.randn(5, 2, 8, dtype=dtype), *angles(5, 8)).dtype == dtype
