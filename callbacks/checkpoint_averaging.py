"""The mean of several checkpoints' weights.

MindVL (arXiv 2509.11662) averages checkpoints that were trained at different sequence lengths; model soups (arXiv
2203.05482) average runs with different hyper-parameters. Both are one weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def average_state_dicts(
    names: Sequence[str],
    load: Callable[[str], Mapping[str, Tensor]],
    *,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Weighted mean of the state dicts that `load` gives for `names`, summed in fp32, returned in their own dtypes.

    One state dict is held at a time beside the sum. Raises ValueError, naming the checkpoint and the tensor, when
    fewer than two are given, one is given twice, keys or shapes or dtypes differ, a value is not finite, or integer
    buffers disagree. `weights` are normalised to add up to 1; by default all are equal.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} checkpoint given, an average needs at least 2")
    if len(set(names)) < len(names):
        raise ValueError(f"a checkpoint is given twice: {sorted(name for name in set(names) if names.count(name) > 1)}")
    shares = _normalised(weights, len(names))
    sums: dict[str, Tensor] = {}
    first: dict[str, tuple[torch.Size, torch.dtype]] = {}
    for number, (name, share) in enumerate(zip(names, shares, strict=True)):
        state = load(name)
        if number == 0:
            first = {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}
        _check_alike(name, state, names[0], first)
        for key, tensor in state.items():
            if not tensor.is_floating_point():
                if number and not torch.equal(sums[key], tensor):
                    raise ValueError(f"{name}: integer buffer {key} differs from the one in {names[0]}")
                sums.setdefault(key, tensor.clone())
                continue
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name}: {key} holds a value that is not finite")
            if number == 0:
                sums[key] = torch.zeros(tensor.shape, dtype=torch.float32)
            sums[key].add_(tensor.float(), alpha=share)
    return {key: tensor.to(first[key][1]) for key, tensor in sums.items()}


def _normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} checkpoints")
    if sum(weights) <= 0:
        raise ValueError(f"the weights add up to {sum(weights)}, they must be positive in sum")
    return [weight / sum(weights) for weight in weights]


def _check_alike(name: str, state: Mapping[str, Tensor], first_name: str, first: Mapping[str, tuple]) -> None:
    if state.keys() != first.keys():
        only_here, only_there = sorted(state.keys() - first.keys())[:3], sorted(first.keys() - state.keys())[:3]
        raise ValueError(f"{name} and {first_name} hold different keys: only here {only_here}, only there {only_there}")
    for key, tensor in state.items():
        if (tensor.shape, tensor.dtype) != first[key]:
            shape, dtype = first[key]
            raise ValueError(
                f"{name}: {key} is {tuple(tensor.shape)} {tensor.dtype}, in {first_name} {tuple(shape)} {dtype}"
            )
