"""The mean of state dicts that fit into memory.

MindVL (arXiv 2509.11662) averages checkpoints that were trained at different sequence lengths; model soups (arXiv
2203.05482) average runs with different hyper-parameters. Both are one weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .averaging_mean import AVERAGED, different_keys, is_finite, shares_of


def average_state_dicts(
    names: Sequence[str],
    load: Callable[[str], Mapping[str, Tensor]],
    *,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Weighted mean of the state dicts that `load` gives for `names`, summed in fp32, returned in their own dtypes.

    One state dict is held at a time beside the sum. Tensors that share memory in the first state dict share it in the
    result. Raises ValueError, naming the checkpoint and the tensor, when fewer than two are given, one is given twice,
    keys or shapes or dtypes or ties differ, a value is not finite, or integer buffers disagree. `weights` are
    normalised to add up to 1; by default all are equal.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} checkpoint given, an average needs at least 2")
    if len(set(names)) < len(names):
        raise ValueError(f"a checkpoint is given twice: {sorted(name for name in set(names) if names.count(name) > 1)}")
    shares = shares_of(weights, len(names))
    sums: dict[str, Tensor] = {}
    first: dict[str, tuple[torch.Size, torch.dtype]] = {}
    ties: dict[str, str] = {}
    for number, (name, scale) in enumerate(zip(names, shares.scales, strict=True)):
        state = load(name)
        if number == 0:
            first = {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}
            ties = tied_names(state)
        _check_alike(name, state, names[0], first, ties)
        for key, tensor in state.items():
            if key in ties:
                continue
            if not tensor.is_floating_point():
                if number and not torch.equal(sums[key], tensor):
                    raise ValueError(f"{name}: integer buffer {key} differs from the one in {names[0]}")
                sums.setdefault(key, tensor.clone())
                continue
            if tensor.dtype not in AVERAGED:
                raise ValueError(f"{name}: {key} is {tensor.dtype}; quantised weights have no mean")
            if not is_finite(tensor):
                raise ValueError(f"{name}: {key} holds a value that is not finite")
            if number == 0:
                sums[key] = torch.zeros(tensor.shape, dtype=torch.promote_types(tensor.dtype, torch.float32))
            sums[key].add_(tensor.to(sums[key]), alpha=scale)
    for key, tensor in sums.items():
        if tensor.is_floating_point():
            sums[key] = tensor.div_(shares.divisor).to(first[key][1])
    return {key: sums[ties.get(key, key)] for key in first}


def tied_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Second names of tensors that share memory, with the first name of each."""
    owners: dict[tuple, str] = {}
    tied = {}
    for key, tensor in state.items():
        if tensor.numel():
            owner = owners.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), key)
            if owner != key:
                tied[key] = owner
    return tied


def _check_alike(
    name: str, state: Mapping[str, Tensor], first_name: str, first: Mapping[str, tuple], ties: Mapping[str, str]
) -> None:
    if state.keys() != first.keys():
        raise ValueError(different_keys(name, set(state), first_name, set(first)))
    for key, tensor in state.items():
        if (tensor.shape, tensor.dtype) != first[key]:
            shape, dtype = first[key]
            raise ValueError(
                f"{name}: {key} is {tuple(tensor.shape)} {tensor.dtype}, in {first_name} {tuple(shape)} {dtype}"
            )
    own = tied_names(state)
    if own != ties:
        key = min(own.items() ^ ties.items())[0]
        raise ValueError(f"{name}: {key} is tied to {own.get(key)}, in {first_name} to {ties.get(key)}")
