"""How many parameters one routed expert has: what a cache slot holds and a miss loads."""

from __future__ import annotations

from torch import nn

from mindvl.routing.matchers import find_moe_layers


def expert_parameters(model: nn.Module) -> int | None:
    """Parameters of the largest routed expert of one layer; None where the model does not show them.

    Experts are stacked along the first axis of their parameters (transformers 5), or are modules in a list.
    """
    modules = dict(model.named_modules())
    sizes = []
    for layer in find_moe_layers(model):
        steps = layer.name.split(".")
        around = [modules[".".join(steps[: len(steps) - up])] for up in range(min(3, len(steps)))]
        holders = [
            layer.module,
            *(module.experts for module in around if isinstance(getattr(module, "experts", None), nn.Module)),
        ]
        sizes.append(next((size for size in (_size(each, layer.num_experts) for each in holders) if size), 0))
    return max(sizes) or None


def _size(holder: nn.Module, num_experts: int) -> int:
    if isinstance(holder, nn.ModuleList | nn.ModuleDict):
        return sum(parameter.numel() for parameter in holder.parameters()) // max(1, len(holder))
    stacked = [parameter for parameter in holder.parameters() if parameter.ndim and parameter.shape[0] == num_experts]
    return sum(parameter.numel() for parameter in stacked if parameter.ndim > 1) // num_experts
