"""Entries for Ascend NPUs, on the fused kernels of torch_npu; facts are those of its own documentation of operators.

Attention is `npu_fusion_attention` in the layout TND (tokens, heads, channels): segments end at `actual_seq_qlen`,
which are running sums without a leading 0, and a causal mask is one 2,048 x 2,048 triangle for packs of any size
(sparse mode 3, the paper's mask compression). True in a mask means "not seen".

    lengths (3, 2)      actual_seq_qlen = actual_seq_kvlen = [3, 5]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindvl.ops.precision import at_least_fp32, step_dtype

_MASK_SIDE = 2048
_CAUSAL = 3
"""Sparse mode "rightDownCausal": the triangle ends at the last query and the last key of each segment."""
_MAX_SEGMENTS = 1024
"""Segments of one call; kernels for variable lengths promise no more."""


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Whether torch_npu's kernels can take such tensors here."""
    if device != "npu":
        return f"it takes npu tensors, not {device}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"torch_npu's kernels take float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    try:
        import torch_npu  # noqa: F401
    except (ImportError, OSError) as error:
        return f"torch_npu cannot be imported ({str(error).splitlines()[0]})"
    return None


@lru_cache(maxsize=2)
def _triangle(device: torch.device) -> Tensor:
    return torch.ones(_MASK_SIDE, _MASK_SIDE, dtype=torch.bool, device=device).triu_(diagonal=1)


def fusion_attention(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads head_dim"]:
    """A call per 1,024 segments; fewer key heads than query heads are the kernel's own business."""
    lengths = [length for length in lengths if length]
    outputs, start = [], 0
    for first in range(0, len(lengths), _MAX_SEGMENTS):
        ends = list(accumulate(lengths[first : first + _MAX_SEGMENTS]))
        part = slice(start, start + ends[-1])
        outputs.append(_attention_call(query[part], key[part], value[part], ends, causal=causal, scale=scale))
        start = part.stop
    if not outputs:
        return query + 0 * (key.sum() + value.sum())
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attention_call(
    query: Tensor, key: Tensor, value: Tensor, ends: list[int], *, causal: bool, scale: float
) -> Tensor:
    import torch_npu

    mask = {"atten_mask": _triangle(query.device), "sparse_mode": _CAUSAL} if causal else {}
    results = torch_npu.npu_fusion_attention(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        query.shape[1],
        "TND",
        scale=scale,
        keep_prob=1.0,
        actual_seq_qlen=ends,
        actual_seq_kvlen=ends,
        **mask,
    )
    return results[0]


def rms_norm(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float) -> Tensor:
    """`npu_rms_norm`, which wants input and weight in one precision: the wider of the two."""
    import torch_npu

    dtype = torch.promote_types(x.dtype, weight.dtype)
    return torch_npu.npu_rms_norm(x.to(dtype), weight.to(dtype), epsilon=eps)[0].to(step_dtype(x))


def rotary(
    states: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """`npu_rotary_mul` by halves, as one batch of (batch, tokens, heads, channels), with angles in fp32."""
    import torch_npu

    exact = at_least_fp32(states)[None]
    angles = (angle.to(exact.dtype)[None, :, None].contiguous() for angle in (cos, sin))
    return torch_npu.npu_rotary_mul(exact.contiguous(), *angles)[0].to(states.dtype)


def swiglu(gate: Float[Tensor, "*rows dim"], up: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """`npu_swiglu`, which takes gate and up side by side."""
    if not gate.numel():  # the kernel takes no empty tensors, and a rank may have no rows for its experts
        return gate * up
    import torch_npu

    return torch_npu.npu_swiglu(torch.cat((gate, up), dim=-1), dim=-1)


def grouped_matmul(
    rows: Float[Tensor, "rows inputs"],
    weights: Float[Tensor, "experts outputs inputs"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "rows outputs"]:
    """`npu_grouped_matmul`, which has no backward pass of its own: three calls, one for each product."""
    return _GroupedMatmul.apply(rows, weights, offsets.to(torch.int64))


_ONE_TENSOR = 3
"""`split_item`: all groups' results come as one tensor."""
_GROUP_ROWS, _GROUP_SUM = 0, 2
"""`group_type`: groups divide the rows of the left matrix, or the axis that is summed over."""


def _grouped(left: Tensor, right: Tensor, offsets: Tensor, group_type: int) -> Tensor:
    import torch_npu

    options = {"group_list": offsets, "split_item": _ONE_TENSOR, "group_type": group_type, "group_list_type": 0}
    return torch_npu.npu_grouped_matmul([left], [right], bias=None, **options)[0]


class _GroupedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weights, offsets):
        ctx.save_for_backward(rows, weights, offsets)
        return _grouped(rows, weights.transpose(1, 2), offsets, _GROUP_ROWS)

    @staticmethod
    def backward(ctx, grad):
        rows, weights, offsets = ctx.saved_tensors
        grad_rows = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_rows = _grouped(grad, weights, offsets, _GROUP_ROWS)
        if ctx.needs_input_grad[1]:
            grad_weights = _grouped(grad.t(), rows, offsets, _GROUP_SUM)
        return grad_rows, grad_weights, None
