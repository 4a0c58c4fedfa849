"""Operators changed inside transformers' classes: small submodules with the same parameter names take their place.

A replaced submodule holds the very parameters of the one it replaces, so checkpoints, parameter names and tied
weights are untouched. What is not recognised stays as it is.

The rotary embedding of a language model is no submodule but a function of the file that its attention is written in.
There ours takes the function's place, for every model of that file in this process, where both give the same on a
small example, which models that pair channels otherwise (Cohere, GLM) do not.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mindvl.ops.linear import Linear
from mindvl.ops.loss import Head
from mindvl.ops.rms_norm import RMSNorm
from mindvl.ops.rotary import apply_rotary
from mindvl.ops.swiglu import SwiGLU


def replacement(module: nn.Module, name: str) -> nn.Module | None:
    """Our equivalent of a stock submodule with this attribute name, or None when there is none."""
    kind = type(module).__name__
    if (
        kind.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")
        and [*dict(module.named_parameters())] == ["weight"]
    ):
        return RMSNorm(module)
    if kind.endswith("MLP") and _is_gated_silu(module):
        return SwiGLU(module)
    if type(module) is nn.Linear:
        return Head(module) if name == "lm_head" else Linear(module)
    return None


def _is_gated_silu(module: nn.Module) -> bool:
    activation = type(getattr(module, "act_fn", None)).__name__
    children = {child for child, _ in module.named_children()}
    return children >= {"gate_proj", "up_proj", "down_proj"} and activation in ("SiLUActivation", "SiLU")


def replace_operators(model: nn.Module) -> int:
    """Swap all submodules that have an equivalent of ours; returns how many."""
    count, parents = 0, [model]
    while parents:
        parent = parents.pop()
        for name, child in list(parent.named_children()):
            ours = replacement(child, name)
            if ours is not None:
                setattr(parent, name, ours)
                count += 1
            parents.append(child if ours is None else ours)
    for file in {type(module).__module__ for module in model.modules() if type(module).__name__.endswith("Attention")}:
        _replace_rotary(file)
    return count


_ROTARY = "apply_rotary_pos_emb"


def _replace_rotary(file: str) -> None:
    """Put our rotary embedding where the attention of a modelling file looks for its own."""
    module = sys.modules.get(file)
    stock = getattr(module, _ROTARY, None)
    if (
        stock is None
        or hasattr(stock, "_of_mindvl")
        or list(inspect.signature(stock).parameters) != ["q", "k", "cos", "sin", "unsqueeze_dim"]
    ):
        return
    ours = _rotary_like(stock)
    states = torch.arange(8.0, device="cpu").view(1, 1, 2, 4)
    angles = torch.arange(4.0, device="cpu").view(1, 2, 2).repeat(1, 1, 2)
    example = (states, -states, angles.cos(), angles.sin())
    if all(
        torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(ours(*example), stock(*example), strict=True)
    ):
        setattr(module, _ROTARY, ours)


def _rotary_like(stock: Callable) -> Callable:
    """Our rotary embedding with the arguments of the stock one, which still serves what is no single row of tokens."""

    @functools.wraps(stock)
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        one_row = type(q) is Tensor and q.shape[0] == cos.shape[0] == 1 and unsqueeze_dim == 1
        if not one_row or cos.shape[-1] != q.shape[-1]:
            return stock(q, k, cos, sin, unsqueeze_dim)
        turned = (apply_rotary(states[0].transpose(0, 1), cos[0], sin[0]) for states in (q, k))
        q, k = (states.transpose(0, 1)[None] for states in turned)
        return q, k

    rotate._of_mindvl = True  # type: ignore[attr-defined]
    return rotate
