"""Rotary position embedding: rotate pairs of channels by an angle that grows with the position (arXiv 2104.09864).

The tower's angles are 2-D, half of a head's channels for the row of a patch and half for its column; the language
model's are 1-D. Either way a token has one angle per pair of channels, and the rotation is the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mindvl.ops.precision import at_least_fp32
from mindvl.ops.table import choose


def apply_rotary(
    states: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """Rotate channel i against channel i + head_dim/2, as transformers' models pair them; in fp32, given back as is."""
    return choose("rotary", states)(states, cos, sin)


def rotary_reference(
    states: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """The definition, in fp32: x cos + (x turned by a quarter) sin."""
    x = at_least_fp32(states)
    first, second = x.chunk(2, dim=-1)
    return (x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]).to(states.dtype)


def rotary_by_halves(
    states: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """Both halves written once, turned back by the opposite angle in the backward pass. Angles get no gradient."""
    return _Rotary.apply(states, cos, sin)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    x, cos, sin = at_least_fp32(states), cos[:, None, :half], sin[:, None, :half]
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    for ours, own, other, sign in ((0, 0, half, -1), (half, half, 0, 1)):
        part = turned[..., ours : ours + half]
        torch.mul(x[..., own : own + half], cos, out=part)
        part.addcmul_(x[..., other : other + half], sin, value=sign)
    return turned.to(states.dtype)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None
