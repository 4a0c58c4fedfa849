"""silu(gate) * up, the gated activation of the feed-forward layers (arXiv 2002.05202), saving only its two inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mindvl.ops.precision import at_least_fp32
from mindvl.ops.table import choose


def swiglu(gate: Float[Tensor, "*rows dim"], up: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """silu(gate) * up, in the precision of its two arguments."""
    return choose("swiglu", gate)(gate, up)


def swiglu_reference(gate: Float[Tensor, "*rows dim"], up: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """The definition, in fp32."""
    gate32 = at_least_fp32(gate)
    return (gate32 * torch.sigmoid(gate32) * at_least_fp32(up)).to(gate.dtype)


def recomputing_swiglu(gate: Float[Tensor, "*rows dim"], up: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """The same, recomputing silu(gate) in the backward pass."""
    return _SwiGLU.apply(gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


class SwiGLU(nn.Module):
    """Takes the place of a transformers gated MLP and shares its three projections."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = stock.gate_proj, stock.up_proj, stock.down_proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(hidden_states), self.up_proj(hidden_states)))
