"""Operators changed inside transformers' classes: small submodules with the same parameter names take their place.

A replaced submodule holds the very parameters of the one it replaces, so checkpoints, parameter names and tied
weights are untouched. What is not recognised stays as it is.
"""

from __future__ import annotations

from torch import nn

from mindvl.ops.rms_norm import RMSNorm
from mindvl.ops.swiglu import SwiGLU


def replacement(module: nn.Module) -> nn.Module | None:
    """Our equivalent of a stock submodule, or None when there is none."""
    name = type(module).__name__
    if (
        name.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")
        and [*dict(module.named_parameters())] == ["weight"]
    ):
        return RMSNorm(module)
    if name.endswith("MLP") and _is_gated_silu(module):
        return SwiGLU(module)
    return None


def _is_gated_silu(module: nn.Module) -> bool:
    activation = type(getattr(module, "act_fn", None)).__name__
    children = {child for child, _ in module.named_children()}
    return children >= {"gate_proj", "up_proj", "down_proj"} and activation in ("SiLUActivation", "SiLU")


def replace_operators(model: nn.Module) -> int:
    """Swap all submodules that have an equivalent of ours; returns how many."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            ours = replacement(child)
            if ours is not None:
                setattr(parent, name, ours)
                count += 1
    return count
