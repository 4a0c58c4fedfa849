"""Learning rates: linear warm-up, cosine decay, one peak per part of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from mindvl.model.parts import Part, part_of


@dataclass
class Rates:
    """Peak learning rate of each part and the shape that all share.

    MindVL's own rates are not public; these are ours, for models trained from nothing.

    Args:
        vision: peak rate of the tower.
        projector: peak rate of the projector.
        language: peak rate of the language model.
        warmup_steps: optimizer steps of linear warm-up.
        floor_ratio: share of the peak at which the cosine ends.
        weight_decay: on matrices; norms, biases and embeddings have none.
        beta1: AdamW's first moment decay.
        beta2: AdamW's second moment decay.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    vision: float = 2e-3
    projector: float = 2e-3
    language: float = 2e-3
    warmup_steps: int = 20
    floor_ratio: float = 0.05
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor_ratio: float) -> float:
    """Share of the peak rate at optimizer step `step`: rises to 1 at `warmup_steps`, ends at `floor_ratio`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor_ratio + (1 - floor_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, rates: Rates) -> list[dict]:
    """Optimizer groups of the trained parameters: by part, and by whether weight decay applies.

    Where a sharded model lies on several meshes, also by mesh: the optimizer takes a group's parameters together, and
    torch has no operation over tensors of two meshes.
    """
    groups: dict[tuple[Part, bool, Any], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed_tokens" not in name
            mesh = getattr(parameter, "device_mesh", None)
            groups.setdefault((part_of(name), decays, mesh), []).append(parameter)
    if not groups:
        raise ValueError("no parameter is trained: the phase's `trains` is empty")
    return [
        {
            "name": part if decays else f"{part}_no_decay",
            "params": parameters,
            "lr": getattr(rates, part),
            "weight_decay": rates.weight_decay if decays else 0.0,
        }
        for (part, decays, _), parameters in groups.items()
    ]
