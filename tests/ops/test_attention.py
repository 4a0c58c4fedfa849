"""Packed attention against its definition, and the promise that no segment sees another."""

import pytest
import torch

from mindvl.ops.attention import packed_attention, packed_attention_reference

PACKS = {
    "unequal": (7, 3, 11),
    "one segment": (9,),
    "length-1 segments": (1, 5, 1, 1, 4),
    "many equal windows": (4,) * 12 + (2, 4, 2),
    "like lengths that share a padded call": (10, 9, 4, 10, 3, 8),
    "an empty segment": (3, 0, 2),
}


def states(lengths, *, heads=4, kv_heads=4, head_dim=8, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    shapes = [(sum(lengths), count, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def repeated(inputs):
    """Key and value heads repeated for each query head, as the definition wants them."""
    query, key, value = inputs
    groups = query.shape[1] // key.shape[1]
    return query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("lengths", PACKS.values(), ids=PACKS.keys())
def test_packed_attention_equals_its_definition_forward_and_backward(lengths, causal, kv_heads):
    inputs = states(lengths, kv_heads=kv_heads)
    fast = packed_attention(*inputs, lengths, causal=causal, scale=0.3)
    slow = packed_attention_reference(*repeated(inputs), lengths, causal=causal, scale=0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, weight), torch.autograd.grad(slow, inputs, weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_backward_pass_does_not_write_into_the_gradient_it_is_given():
    lengths = (10, 9, 4)
    inputs = states(lengths)
    output = packed_attention(*inputs, lengths, causal=True, scale=0.3)
    weight = torch.randn_like(output)
    before = weight.clone()
    torch.autograd.grad(output, inputs, weight)
    torch.testing.assert_close(weight, before, rtol=0, atol=0)


def test_lengths_that_do_not_add_up_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"add up to 9 tokens, but the pack has 10"):
        packed_attention(*states((10,)), (4, 5), causal=True, scale=1.0)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_changing_one_segment_leaves_the_outputs_of_the_others_bit_equal(changed, causal):
    lengths = (10, 9, 4, 10)  # the first two and the last share a padded call when causal
    inputs = states(lengths)
    before = packed_attention(*inputs, lengths, causal=causal, scale=0.3).split(lengths)
    with torch.no_grad():
        for tensor, other in zip(inputs, states(lengths, seed=1), strict=True):
            tensor.split(lengths)[changed].copy_(other.split(lengths)[changed] * 50)
    after = packed_attention(*inputs, lengths, causal=causal, scale=0.3).split(lengths)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(old, new) == (number != changed)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_a_loss_on_one_segment_gives_the_others_no_gradient(causal):
    lengths = (10, 9, 4, 10)
    inputs = states(lengths)
    packed_attention(*inputs, lengths, causal=causal, scale=0.3).split(lengths)[1].square().sum().backward()
    for tensor in inputs:
        norms = [part.abs().max().item() for part in tensor.grad.split(lengths)]
        assert [norm > 0 for norm in norms] == [False, True, False, False]


def test_a_causal_query_never_sees_a_later_key():
    inputs = states((8,))
    before = packed_attention(*inputs, (8,), causal=True, scale=0.3)
    with torch.no_grad():
        inputs[1][5:] += 1
        inputs[2][5:] -= 1
    after = packed_attention(*inputs, (8,), causal=True, scale=0.3)
    assert torch.equal(before[:5], after[:5]) and not torch.equal(before[5:], after[5:])


def test_the_output_has_the_precision_of_the_values_even_where_queries_are_fp32():
    lengths = (5, 3)
    query, key, value = states(lengths)
    output = packed_attention(query, key, value.bfloat16(), lengths, causal=True, scale=0.3)
    exact = packed_attention_reference(query, key, value, lengths, causal=True, scale=0.3)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator in this machine")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("lengths", PACKS.values(), ids=PACKS.keys())
def test_on_an_accelerator_packed_attention_equals_its_definition(lengths, causal, kv_heads):
    device = torch.accelerator.current_accelerator()
    inputs = [tensor.detach().to(device).requires_grad_() for tensor in states(lengths, kv_heads=kv_heads)]
    fast = packed_attention(*inputs, lengths, causal=causal, scale=0.3)
    slow = packed_attention_reference(*repeated(inputs), lengths, causal=causal, scale=0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-3)
    weight = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, weight), torch.autograd.grad(slow, inputs, weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
