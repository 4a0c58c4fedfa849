"""Entries on liger-kernel's Triton kernels, for CUDA and NPUs where the package is installed, in 0.6.2 or later."""

from __future__ import annotations

import inspect
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindvl.ops.loss import IGNORED, chunked_cross_entropy
from mindvl.ops.precision import at_least_fp32, step_dtype

_LOWEST = "0.6.2"
_NEEDED = {
    "liger_rms_norm": {"offset", "casting_mode", "in_place"},
    "liger_swiglu": set[str](),
    "liger_fused_linear_cross_entropy": {"bias", "ignore_index", "reduction", "accum_dtype"},
}
"""What is called, and what it must take by name; `accum_dtype` came last."""


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Whether liger-kernel is there, compiles for this device, and can be told what we tell it."""
    if device not in ("cuda", "npu"):
        return f"its kernels are compiled for cuda and npu, not for {device}"
    if dtype == torch.float64:
        return "its kernels add up in float32"
    return "liger-kernel is not installed" if find_spec("liger_kernel") is None else _why_not_this_version()


@lru_cache(maxsize=1)
def _why_not_this_version() -> str | None:
    try:
        functional = import_module("liger_kernel.transformers.functional")
    except (ImportError, OSError, RuntimeError) as error:
        return f"liger-kernel cannot be imported ({str(error).splitlines()[0]})"
    for name, needed in _NEEDED.items():
        function = getattr(functional, name, None)
        missing = needed if function is None else needed - inspect.signature(function).parameters.keys()
        if function is None or missing:
            lacks = f"no {name}" if function is None else f"no {' and '.join(sorted(missing))} in {name}"
            return f"liger-kernel {_version()} has {lacks}; {_LOWEST} is the first that has"
    return None


def _version() -> str:
    try:
        return version("liger-kernel")
    except PackageNotFoundError:
        return "of unknown version"


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
    """The fused head and loss, the weight's gradient added up in fp32; none of its kernels is called without rows.

    liger computes no gradient at all where the rows need none, which would leave a head that trains over a frozen model
    as it is; that is chunked cross-entropy's.
    """
    if not len(rows):
        parts = [rows, weight] + ([] if bias is None else [bias])
        return torch.stack([at_least_fp32(part).sum() for part in parts]).sum() * 0
    learnt = weight.requires_grad or (bias is not None and bias.requires_grad)
    if learnt and not rows.requires_grad and torch.is_grad_enabled():
        return chunked_cross_entropy(rows, weight, bias, targets)
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
