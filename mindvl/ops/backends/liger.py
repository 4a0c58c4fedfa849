"""Entries on liger-kernel's Triton kernels, for CUDA and NPUs where the package is installed."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindvl.ops.loss import IGNORED
from mindvl.ops.precision import at_least_fp32, step_dtype


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Whether liger-kernel is there and compiles for this device."""
    if device not in ("cuda", "npu"):
        return f"its kernels are compiled for cuda and npu, not for {device}"
    if dtype == torch.float64:
        return "its kernels add up in float32"
    return None if find_spec("liger_kernel") is not None else "liger-kernel is not installed"


def rms_norm(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float) -> Tensor:
    """Everything in fp32 until the end ("gemma" casting without its offset); no gradient is written over."""
    from liger_kernel.transformers.functional import liger_rms_norm

    normed = liger_rms_norm(x.contiguous(), weight, eps, offset=0.0, casting_mode="gemma", in_place=False)
    return normed.to(step_dtype(x))


def swiglu(gate: Float[Tensor, "*rows dim"], up: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """silu(gate) * up, recomputed in the backward pass."""
    from liger_kernel.transformers.functional import liger_swiglu

    return liger_swiglu(gate, up)


def cross_entropy(
    rows: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "words dim"],
    bias: Float[Tensor, " words"] | None,
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """The fused head and loss, the weight's gradient added up in fp32; none of its kernels is called without rows."""
    if not len(rows):
        parts = [rows, weight] + ([] if bias is None else [bias])
        return torch.stack([at_least_fp32(part).sum() for part in parts]).sum() * 0
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype = step_dtype(rows)
    low_bias = None if bias is None else bias.to(dtype)
    loss = liger_fused_linear_cross_entropy(
        rows.to(dtype),
        weight.to(dtype),
        targets,
        bias=low_bias,
        ignore_index=IGNORED,
        reduction="sum",
        accum_dtype=torch.float32,
    )
    return at_least_fp32(loss)
