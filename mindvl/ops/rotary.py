"""Rotary position embedding: rotate pairs of channels by an angle that grows with the position (arXiv 2104.09864)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mindvl.ops.precision import at_least_fp32


def apply_rotary(
    states: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """Rotate channel i against channel i + head_dim/2, as transformers' models pair them."""
    half = states.shape[-1] // 2
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    first, second = at_least_fp32(states[..., :half]), at_least_fp32(states[..., half:])
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(states.dtype)
