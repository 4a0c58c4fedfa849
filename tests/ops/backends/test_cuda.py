"""What is handed to PyTorch's variable-length attention, on a double that computes what its documentation promises."""

from importlib import import_module

import pytest
import torch

from mindvl.ops.attention import packed_attention_reference
from mindvl.ops.backends import cuda


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """(tokens, heads, channels); bounds from 0 in int32; a window of (-1, 0) is causal."""
    for bounds, states, longest in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k)):
        assert bounds.dtype == torch.int32 and bounds[0] == 0 and bounds[-1] == len(states)
        assert bounds.diff().max() == longest and bounds.diff().min() > 0
    assert query.shape[2] == key.shape[2] == value.shape[2] and query.shape[2] % 8 == 0 and query.shape[2] <= 256
    assert window_size in ((-1, -1), (-1, 0)) and scale is not None
    heads, kv_heads = query.shape[1], key.shape[1]
    assert enable_gqa or heads == kv_heads
    key, value = (states.repeat_interleave(heads // kv_heads, 1) for states in (key, value))
    outputs = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (states[start:end].transpose(0, 1) for states in (query, key, value))
        causal = window_size == (-1, 0)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


def without_gqa(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """As in releases that know no grouped heads."""
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.fixture(params=[varlen_attn, without_gqa], ids=lambda function: function.__name__)
def double(request, monkeypatch):
    monkeypatch.setattr(import_module("torch.nn.attention.varlen"), "varlen_attn", request.param)
    cuda._varlen_parameters.cache_clear()
    yield request.param
    cuda._varlen_parameters.cache_clear()


def states(lengths, *, kv_heads=4, head_dim=8):
    torch.manual_seed(0)
    return [torch.randn(sum(lengths), heads, head_dim, requires_grad=True) for heads in (4, kv_heads, kv_heads)]


@pytest.mark.parametrize("head_dim", [8, 12], ids=["whole", "padded"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("lengths", [(7, 3, 11), (9,), (3, 0, 2)], ids=str)
def test_varlen_attention_equals_the_definition(lengths, causal, kv_heads, head_dim, double):
    inputs = states(lengths, kv_heads=kv_heads, head_dim=head_dim)
    ours = cuda.varlen_attention(*inputs, lengths, causal=causal, scale=0.3)
    theirs = packed_attention_reference(*inputs, lengths, causal=causal, scale=0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(output, inputs, weight) for output in (ours, theirs))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_heads_that_flash_attention_does_not_take_are_refused_with_the_way_out(double):
    with pytest.raises(ValueError, match=r"at most 256 channels, these have 264; choose packed_attention=per_segment"):
        cuda.varlen_attention(*states((3,), head_dim=264), (3,), causal=True, scale=1.0)


def test_a_pack_without_tokens_gives_an_empty_result_with_a_gradient(double):
    inputs = states((0,))
    cuda.varlen_attention(*inputs, (0,), causal=True, scale=1.0).sum().backward()
    assert all(state.grad.shape == (0, 4, 8) for state in inputs)


def test_this_pytorch_tells_varlen_attention_what_we_tell_it():
    cuda._varlen_parameters.cache_clear()
    assert {"scale", "window_size"} <= cuda._varlen_parameters()


def test_reasons_name_what_is_missing(monkeypatch):
    assert cuda.why_not_varlen("cpu", torch.bfloat16) == "it takes cuda tensors, not cpu"
    monkeypatch.setattr(cuda, "_varlen_parameters", lambda: frozenset({"scale"}))
    assert cuda.why_not_varlen("cuda", torch.bfloat16).endswith("has no window_size")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert cuda.why_not_grouped_mm("cuda", torch.bfloat16) == "it needs compute capability 8.0, this GPU has 7.5"
    assert cuda.why_not_grouped_mm("npu", torch.bfloat16) == "grouped_mm has no kernel for npu"
