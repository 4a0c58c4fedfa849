"""Linear maps, in fp32 on processors whose matrix products MKL slows down.

MKL runs its AVX2 kernels on processors that Intel has not made, also where they have AVX-512; oneDNN, which comes with
PyTorch too, looks at the instruction set alone. On an AMD EPYC with AVX-512 (one core, fp32, 6400 x 640 times
640 x 1920) that is 109 GFLOP/s against 183 to 240. PyTorch takes oneDNN for bf16 and MKL for fp32, so the three
products of a linear layer are asked for by name here. They round in another order, nothing else: 1e-6 of the largest
value against 4e-7.

Products that are small lose more to the call (9 us) than they win, and stay with PyTorch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mindvl.ops.precision import at_least_fp32, no_autocast, step_dtype
from mindvl.ops.table import choose

MIN_MULTIPLICATIONS = 1 << 22
"""Smallest product that oneDNN gets: 4 M multiplications, 80 us of a core."""


def linear(x: Float[Tensor, "*rows inputs"], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, weight as (outputs, inputs)."""
    return choose("linear", x)(x, weight, bias)


def linear_reference(x: Float[Tensor, "*rows inputs"], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The definition, in fp32."""
    dtype = step_dtype(x)
    with no_autocast(x):
        product = at_least_fp32(x) @ at_least_fp32(weight).t()
        return (product if bias is None else product + bias).to(dtype)


def torch_linear(x: Float[Tensor, "*rows inputs"], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """PyTorch's own, whatever library it takes."""
    return F.linear(x, weight, bias)


def onednn_linear(x: Float[Tensor, "*rows inputs"], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """oneDNN's products forward and backward where they are large, plain fp32 and not under autocast."""
    plain = all(type(each) in (Tensor, nn.Parameter) and each.dtype == torch.float32 for each in (x, weight))
    small = x.numel() * weight.shape[0] < MIN_MULTIPLICATIONS
    if not plain or small or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return _OneDNNLinear.apply(x, weight, bias)


def why_not_onednn(device: str, dtype: torch.dtype) -> str | None:
    """Whether MKL and oneDNN differ here, and for these tensors."""
    if device != "cpu":
        return f"it multiplies on the cpu, not on {device}"
    if dtype != torch.float32:
        return f"it stands in for MKL's fp32 products, not for {dtype}"
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "this PyTorch has no oneDNN"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "this processor has no AVX-512"
    return "MKL is as fast on a processor of Intel's" if _made_by_intel() else None


@lru_cache(maxsize=1)
def _made_by_intel() -> bool:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return any(line.startswith("vendor_id") and "GenuineIntel" in line for line in file)
    except OSError:
        return True


def _onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight.detach(), None if bias is None else bias.detach())

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _onednn(rows, weight.t()).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = _onednn(rows.t(), x.reshape(-1, x.shape[-1]).t())
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias


class Linear(nn.Linear):
    """Takes the place of a plain `nn.Linear` and shares its parameters."""

    def __init__(self, stock: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = stock.in_features, stock.out_features
        self.weight, self.bias = stock.weight, stock.bias

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
