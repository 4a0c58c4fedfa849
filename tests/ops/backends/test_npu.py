"""What is handed to torch_npu's kernels, on a double of them written from their documentation in plain PyTorch.

The double checks what the documentation asks for and computes what it promises, so a mistake in a layout, in the bounds
of segments, in the meaning of a mask or in which matrix is transposed shows as a wrong number.
"""

import sys
from types import ModuleType

import pytest
import torch

from mindvl.ops.attention import packed_attention_reference
from mindvl.ops.backends import npu
from mindvl.ops.experts import grouped_matmul_reference
from mindvl.ops.rms_norm import rms_norm_reference
from mindvl.ops.rotary import rotary_reference
from mindvl.ops.swiglu import swiglu_reference


def npu_fusion_attention(
    query, key, value, head_num, input_layout, *, atten_mask=None, scale=1.0, keep_prob=1.0, pre_tockens=2147483647,
    next_tockens=2147483647, actual_seq_qlen=None, actual_seq_kvlen=None, sparse_mode=0,
):  # fmt: skip
    """Layout TND; running sums without a 0; True masks; mode 0 without a mask sees all, 3 is causal from the end."""
    assert input_layout == "TND" and keep_prob == 1.0 and head_num == query.shape[1]
    assert all(states.is_contiguous() and states.dtype == query.dtype for states in (query, key, value))
    assert key.shape == value.shape and query.shape[1] % key.shape[1] == 0
    assert 1 <= len(actual_seq_qlen) <= 1024 and all(isinstance(end, int) for end in actual_seq_qlen)
    assert actual_seq_qlen[-1] == len(query) and actual_seq_kvlen[-1] == len(key)
    if atten_mask is None:
        assert sparse_mode == 0
    else:
        assert sparse_mode == 3 and atten_mask.dtype in (torch.bool, torch.uint8)
        assert atten_mask.shape == (2048, 2048) and not atten_mask.tril().any() and atten_mask[0, 1:].all()
    key, value = (states.repeat_interleave(head_num // key.shape[1], 1) for states in (key, value))
    outputs, starts = [], (0, 0)
    for ends in zip(actual_seq_qlen, actual_seq_kvlen, strict=True):
        q, k, v = query[starts[0] : ends[0]], key[starts[1] : ends[1]], value[starts[1] : ends[1]]
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if sparse_mode == 3:  # the lower right corner is the last query and the last key
            unseen = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
            scores = scores.masked_fill(unseen, float("-inf"))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
        starts = ends
    return torch.cat(outputs), None, None, None, 0, 0, 0


def npu_rms_norm(x, gamma, epsilon=1e-06):
    assert x.dtype == gamma.dtype and 2 <= x.ndim <= 8
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + epsilon)
    return (x * inverse * gamma).to(x.dtype), inverse


def npu_rotary_mul(input, r1, r2, rotary_mode="half", rotate=None):
    """(batch, tokens, heads, channels) with angles (1, tokens, 1, channels)."""
    assert input.ndim == r1.ndim == r2.ndim == 4 and input.dtype == r1.dtype == r2.dtype
    assert r1.shape == r2.shape == (1, input.shape[1], 1, input.shape[3]) and input.shape[3] % 2 == 0
    assert max(input.shape[0], input.shape[2]) < 1000 and rotary_mode == "half" and rotate is None
    first, second = input.chunk(2, -1)
    return r1 * input + r2 * torch.cat((-second, first), dim=-1)


def npu_swiglu(x, dim=-1):
    assert x.numel() and x.is_contiguous() and 1 <= x.ndim <= 8 and x.shape[dim] % 2 == 0
    first, second = x.chunk(2, dim)
    return first * first.sigmoid() * second


@torch.no_grad()  # the kernel has no backward pass
def npu_grouped_matmul(x, weight, *, bias=None, group_list=None, split_item=0, group_type=None, group_list_type=0):
    """Running sums; type 0 divides the rows of x (M, K), weight (E, K, N); type 2 what is summed: x (M, K), (K, N)."""
    (left,), (right,) = x, weight
    assert group_list.dtype == torch.int64 and group_list_type == 0 and bias is None and split_item in (2, 3)
    ends = group_list.tolist()
    assert sorted(ends) == ends and left.dtype == right.dtype
    parts = list(zip([0, *ends], ends, strict=False))
    if group_type == 0:
        assert left.ndim == 2 and right.ndim == 3 and right.shape[1] == left.shape[1]
        return [torch.cat([left[a:b] @ right[e] for e, (a, b) in enumerate(parts)])]
    assert group_type == 2 and left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
    return [torch.stack([left[:, a:b] @ right[a:b] for a, b in parts])]


@pytest.fixture(autouse=True)
def double(monkeypatch):
    module = ModuleType("torch_npu")
    for function in (npu_fusion_attention, npu_rms_norm, npu_rotary_mul, npu_swiglu, npu_grouped_matmul):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "torch_npu", module)
    return module


def normal(*shape):
    return torch.randn(shape, requires_grad=True)


def assert_same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(output, inputs, weight) for output in (ours, theirs))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("lengths", [(7, 3, 11), (9,), (3, 0, 2), (1,) * 1500 + (4,) * 600], ids=len)
def test_fusion_attention_equals_the_definition(lengths, causal, kv_heads):
    torch.manual_seed(0)
    inputs = [normal(sum(lengths), heads, 8) for heads in (4, kv_heads, kv_heads)]
    if len(lengths) > 100:  # the definition's mask would be 4,000 tokens square
        pieces = [slice(0, 1024), slice(1024, len(lengths))]
        starts = [0, sum(lengths[:1024]), sum(lengths)]
        theirs = torch.cat(
            [
                packed_attention_reference(
                    *(states[starts[n] : starts[n + 1]] for states in inputs), lengths[piece], causal=causal, scale=0.3
                )
                for n, piece in enumerate(pieces)
            ]
        )
    else:
        theirs = packed_attention_reference(*inputs, lengths, causal=causal, scale=0.3)
    assert_same(npu.fusion_attention(*inputs, lengths, causal=causal, scale=0.3), theirs, inputs)


def test_slices_of_a_joint_projection_reach_the_kernel_whole():
    joint = torch.randn(10, 3, 4, 8, requires_grad=True)
    states = joint.unbind(1)
    ours = npu.fusion_attention(*states, (4, 6), causal=False, scale=0.3)
    assert_same(ours, packed_attention_reference(*states, (4, 6), causal=False, scale=0.3), [joint])


def test_more_than_1024_segments_are_several_calls(double, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(len(options["actual_seq_qlen"]))
        return npu_fusion_attention(*arguments, **options)

    monkeypatch.setattr(double, "npu_fusion_attention", counted)
    states = [normal(2500, 1, 8) for _ in range(3)]
    npu.fusion_attention(*states, (1,) * 2500, causal=False, scale=1.0)
    assert calls == [1024, 1024, 452]


def test_a_pack_without_tokens_gives_an_empty_result_with_a_gradient():
    states = [normal(0, 2, 8) for _ in range(3)]
    npu.fusion_attention(*states, (0, 0), causal=True, scale=1.0).sum().backward()
    assert all(state.grad.shape == (0, 2, 8) for state in states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rms_norm_takes_input_and_weight_in_one_precision(dtype):
    x, weight = torch.randn(6, 16, dtype=dtype, requires_grad=True), normal(16)
    ours = npu.rms_norm(x, weight, 1e-6)
    assert ours.dtype == dtype
    if dtype == torch.float32:
        assert_same(ours, rms_norm_reference(x, weight, 1e-6), [x, weight])
    else:
        torch.testing.assert_close(ours, rms_norm_reference(x, weight, 1e-6), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rotary_turns_by_halves(dtype):
    states = torch.randn(5, 3, 8, dtype=dtype, requires_grad=True)
    half = torch.randn(5, 4)
    angles = [torch.cat((f(half), f(half)), dim=-1) for f in (torch.cos, torch.sin)]
    ours, theirs = npu.rotary(states, *angles), rotary_reference(states, *angles)
    assert ours.dtype == dtype
    assert_same(ours, theirs, [states])


def test_swiglu_of_no_rows_calls_no_kernel_and_has_a_gradient():
    gate, up = normal(0, 8), normal(0, 8)
    npu.swiglu(gate, up).sum().backward()
    assert gate.grad.shape == up.grad.shape == (0, 8)


def test_swiglu_gates_with_the_first_half():
    gate, up = normal(2, 5, 8), normal(2, 5, 8)
    assert_same(npu.swiglu(gate, up), swiglu_reference(gate, up), [gate, up])


@pytest.mark.parametrize("counts", [(5, 1, 9), (5, 0, 9, 0), (4,)], ids=str)
def test_grouped_matmul_has_three_products(counts):
    torch.manual_seed(0)
    rows, weights = normal(sum(counts), 6), normal(len(counts), 10, 6)
    offsets = torch.tensor(counts).cumsum(0).to(torch.int32)
    ours = npu.grouped_matmul(rows, weights, offsets)
    assert_same(ours, grouped_matmul_reference(rows, weights, offsets), [rows, weights])


def test_frozen_weights_cost_no_product(double, monkeypatch):
    kinds = []

    def counted(*arguments, **options):
        kinds.append(options["group_type"])
        return npu_grouped_matmul(*arguments, **options)

    monkeypatch.setattr(double, "npu_grouped_matmul", counted)
    rows = normal(6, 4)
    npu.grouped_matmul(rows, torch.randn(2, 3, 4), torch.tensor([2, 6], dtype=torch.int32)).sum().backward()
    assert kinds == [0, 0]


def test_the_entries_exist_where_torch_npu_can_be_imported_and_say_why_not_elsewhere(monkeypatch):
    assert npu.why_not("npu", torch.bfloat16) is None
    assert npu.why_not("cpu", torch.bfloat16) == "it takes npu tensors, not cpu"
    assert "float32, bfloat16 and float16, not float64" in npu.why_not("npu", torch.float64)
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    assert npu.why_not("npu", torch.bfloat16).startswith("torch_npu cannot be imported (")
