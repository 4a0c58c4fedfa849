"""Root-mean-square normalisation (arXiv 1910.07467) with a hand-written backward pass.

Autograd of the plain expression keeps three copies of the activations and walks over them nine times. This one keeps
the input and one number per row. Under autocast the result is already in the lower precision, so the linear layers
that follow do not convert it once each.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindvl.ops.precision import at_least_fp32, step_dtype
from mindvl.ops.table import choose


def rms_norm(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float) -> Float[Tensor, "*rows dim"]:
    """Normalised rows, in the autocast precision where autocast is on, else in that of `x`."""
    return choose("rms_norm", x)(x, weight, eps)


def rms_norm_reference(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float) -> Tensor:
    """The definition, in fp32: x / sqrt(mean(x^2) + eps) * weight."""
    x32 = at_least_fp32(x)
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps) * weight).to(step_dtype(x))


def rms_norm_by_hand(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float) -> Tensor:
    """The same, keeping the input and one number per row for the backward pass."""
    return _RMSNorm.apply(x, weight, eps, step_dtype(x))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        x32 = at_least_fp32(x)
        inverse = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x32 * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, inverse = ctx.saved_tensors
        grad = at_least_fp32(grad)
        normed = x * inverse
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        grad_x = grad * weight
        along = torch.linalg.vecdot(grad_x, normed).unsqueeze_(-1).div_(x.shape[-1])
        grad_x = grad_x.addcmul_(normed, along, value=-1).mul_(inverse)
        return grad_x.to(x.dtype), grad_weight, None, None


class RMSNorm(nn.Module):
    """Takes the place of a transformers RMSNorm and shares its weight."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.weight = stock.weight
        self.variance_epsilon = stock.variance_epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)
