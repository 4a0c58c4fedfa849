"""A layer of experts as two grouped matrix products over rows sorted by expert.

Four tokens, three experts, two each; rows are the pairs of a token and one of its experts, sorted:

    chosen       [[2 0] [0 1] [2 1] [0 2]]
    rows          0  1  3 | 1  2 | 0  2  3        tokens of expert 0, of 1, of 2
    offsets      [3, 5, 8]                        where each expert's rows end

Rows are gathered, multiplied by the gate and up matrix of their expert, gated, multiplied by its down matrix, and added
up for each token with its weights. What goes out to rows comes back by the inverse permutation: forward and backward
are sums over a token's k rows in a fixed order, never a scattered addition.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mindvl.ops.precision import at_least_fp32, no_autocast
from mindvl.ops.swiglu import swiglu
from mindvl.ops.table import choose


def expert_layer(
    states: Float[Tensor, "tokens dim"],
    gate_up: Float[Tensor, "experts both dim"],
    down: Float[Tensor, "experts dim inner"],
    chosen: Int[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens k"],
    *,
    some_elsewhere: bool = False,
) -> Float[Tensor, "tokens dim"]:
    """Weighted sum over each token's experts of down(silu(gate) * up), in the precision of `states`.

    With `some_elsewhere`, a choice of `experts` or above stands for an expert on another rank: it adds nothing here.
    """
    num_experts, k = len(gate_up), chosen.shape[1]
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(0, flat.clamp(max=num_experts), torch.ones_like(flat, dtype=torch.int64))
    offsets = counts[:num_experts].cumsum(0).to(torch.int32)
    rows = _Dispatch.apply(states, order // k, places, k)
    absent = (flat[order] >= num_experts)[:, None] if some_elsewhere else None
    hidden = grouped_matmul(_without(rows, absent), gate_up, offsets)
    outputs = grouped_matmul(swiglu(*_without(hidden, absent).chunk(2, dim=-1)), down, offsets)
    return _Combine.apply(_without(outputs, absent), weights, order, places).to(states.dtype)


def _without(rows: Tensor, absent: Tensor | None) -> Tensor:
    """Zeros, forward and backward, in rows after the last expert's, which grouped products leave as memory was."""
    return rows if absent is None else rows.masked_fill(absent, 0.0)


class _Dispatch(torch.autograd.Function):
    """Each token's states once for each of its experts, in the order of the experts."""

    @staticmethod
    def forward(ctx, states, tokens, places, k):
        ctx.save_for_backward(places)
        ctx.k = k
        return states.index_select(0, tokens)

    @staticmethod
    def backward(ctx, grad):
        (places,) = ctx.saved_tensors
        grads = grad.index_select(0, places).unflatten(0, (-1, ctx.k))
        return grads.sum(dim=1), None, None, None


class _Combine(torch.autograd.Function):
    """A token's rows times their weights, added up in fp32."""

    @staticmethod
    def forward(ctx, rows, weights, order, places):
        ctx.save_for_backward(rows, weights, order)
        mine = at_least_fp32(rows.index_select(0, places)).view(*weights.shape, rows.shape[1])
        with no_autocast(rows):
            return torch.einsum("tkd,tk->td", mine, weights.to(mine.dtype))

    @staticmethod
    def backward(ctx, grad):
        rows, weights, order = ctx.saved_tensors
        grad_rows = grad.index_select(0, order // weights.shape[1])
        grad_weights = None
        if ctx.needs_input_grad[1]:
            along = torch.linalg.vecdot(grad_rows, rows.to(grad.dtype))
            grad_weights = torch.empty_like(along).index_copy_(0, order, along).view(weights.shape).to(weights.dtype)
        scaled = grad_rows.mul_(weights.reshape(-1, 1).index_select(0, order)).to(rows.dtype)
        return scaled, grad_weights, None, None


def grouped_matmul(
    rows: Float[Tensor, "rows inputs"],
    weights: Float[Tensor, "experts outputs inputs"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "rows outputs"]:
    """Rows of expert e, from offsets[e-1] to offsets[e], times the transpose of its weights.

    Rows after the last offset belong to no expert; what comes out for them, and their gradient, is undefined.
    """
    return choose("grouped_experts", rows)(rows, weights, offsets)


def grouped_matmul_reference(
    rows: Float[Tensor, "rows inputs"],
    weights: Float[Tensor, "experts outputs inputs"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "rows outputs"]:
    """The definition: a loop over experts, in fp32."""
    ends = offsets.tolist()
    with no_autocast(rows):
        parts = [
            at_least_fp32(rows[start:end]) @ at_least_fp32(weight).t()
            for start, end, weight in zip([0, *ends], ends, weights, strict=False)
        ]
        rest = rows.new_zeros(len(rows) - ends[-1], weights.shape[1])
        return torch.cat([*parts, at_least_fp32(rest)]).to(rows.dtype)


def torch_grouped_matmul(
    rows: Float[Tensor, "rows inputs"],
    weights: Float[Tensor, "experts outputs inputs"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "rows outputs"]:
    """PyTorch's grouped_mm."""
    function = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return cast(Tensor, function(rows, weights.transpose(1, 2), offs=offsets))


def why_not_per_expert(device: str, dtype: torch.dtype) -> str | None:
    """It reads the offsets, which an accelerator would have to be waited for."""
    return None if device == "cpu" else f"it would wait for {device} to say how many rows each expert has"


def per_expert_matmul(
    rows: Float[Tensor, "rows inputs"],
    weights: Float[Tensor, "experts outputs inputs"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "rows outputs"]:
    """A product per expert that has rows, each by the table's entry for linear maps."""
    if type(offsets) is not Tensor or type(weights) not in (Tensor, nn.Parameter):  # traced, their numbers unknown
        return torch_grouped_matmul(rows, weights, offsets)
    return _PerExpert.apply(rows, weights, tuple(offsets.tolist()))


class _PerExpert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weights, ends):
        ctx.save_for_backward(rows, weights)
        ctx.ends = ends
        outputs = rows.new_empty(len(rows), weights.shape[1])
        outputs[ends[-1] :] = 0
        for part, weight in zip(_parts(ends), weights.detach(), strict=True):
            if part.start < part.stop:
                outputs[part] = choose("linear", rows)(rows[part], weight, None)
        return outputs

    @staticmethod
    def backward(ctx, grad):
        rows, weights = ctx.saved_tensors
        product = choose("linear", grad)
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        for expert, part in enumerate(_parts(ctx.ends)):
            if part.start == part.stop:
                if grad_weights is not None:
                    grad_weights[expert] = 0
                continue
            if grad_rows is not None:
                grad_rows[part] = product(grad[part], weights[expert].t(), None)
            if grad_weights is not None:
                grad_weights[expert] = product(grad[part].t(), rows[part].t(), None)
        return grad_rows, grad_weights, None


def _parts(ends: tuple[int, ...]) -> list[slice]:
    return [slice(start, end) for start, end in zip((0, *ends), ends, strict=False)]
