"""What answers hang on: the weights, and the settings under which the model was asked.

Answers of two models, or at two pixel budgets, are never put into one score. So every file of answers begins with the
identity of whoever wrote it, and whoever goes on with the file compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor, nn

if TYPE_CHECKING:
    from mindvl.model.config import MindVLConfig

_BLOCK_BYTES = 64 << 20
_BOOKKEEPING = ("_name_or_path", "transformers_version", "dtype", "architectures")
"""Fields of a configuration that say where it came from, not what is computed."""


def weights_hash(model: nn.Module) -> str:
    """xxh3 over names, dtypes, shapes and bytes of all tensors in the order of their names.

    One tensor is whole at a time. Ranks that share out the model must all call it, and get what one alone would.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for block in _blocks(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor):
            digest.update(block)
    return digest.hexdigest()


def _blocks(tensor: Tensor):
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    for part in flat.split(_BLOCK_BYTES):
        yield part.cpu().numpy()


def config_hash(config: MindVLConfig) -> str:
    """xxh3 of what a model's configuration says about its computation: sizes, rotary base, token ids, normalisation."""
    stated = json.dumps(_computation(config.to_diff_dict()), sort_keys=True, default=str)
    return xxhash.xxh3_64_hexdigest(stated.encode())


def _computation(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    kept = {key: value for key, value in fields.items() if key not in _BOOKKEEPING}
    return {key: _computation(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "key: old, now new" for all keys that differ, keys of nested mappings joined by dots."""
    flat_old, flat_new = _flat(old), _flat(new)
    keys = [key for key in {**flat_new, **flat_old} if flat_old.get(key) != flat_new.get(key)]
    return [f"{key}: {flat_old.get(key)}, now {flat_new.get(key)}" for key in keys]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return flat
