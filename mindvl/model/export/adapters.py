"""A checkpoint that was trained with LoRA, read as if its adapters had been added to their layers.

    self_attn.q_proj.base_layer.weight, .lora_A.default.weight, .lora_B.default.weight   ->   self_attn.q_proj.weight

A merged layer is worked out when it is read, and kept until another one is: one layer is in memory at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mindvl.model.export.tensors import Facts, Weights, blocks
from mindvl.model.lora import BASE, DOWN, UP, merged_state
from mindvl.model.parts import is_adapter, plain_name


def has_adapters(weights: Weights) -> bool:
    """Whether a checkpoint holds LoRA's matrices."""
    return any(is_adapter(name) for name in weights.tensors)


class MergedWeights:
    """Tensors under the names of a model without adapters; `scale` is alpha / rank.

    ValueError for an adapter without its other half or its layer.
    """

    def __init__(self, weights: Weights, scale: float):
        self.name, self._weights, self._scale = weights.name, weights, scale
        self._sources = {plain_name(name): name for name in weights.tensors if not is_adapter(name)}
        self.tensors: dict[str, Facts] = {name: weights.tensors[its] for name, its in self._sources.items()}
        merged_state({name: torch.empty(0, 0) for name in weights.tensors}, scale)  # says what is not whole
        self._kept: tuple[str, Tensor] | None = None

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of the flattened tensor."""
        source = self._sources[key]
        layer, _, kind = source.partition(BASE)
        if kind != "weight" or f"{layer}{DOWN}weight" not in self._weights.tensors:
            return self._weights.read(source, start, stop)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # makes room for the next
            names = [source, f"{layer}{DOWN}weight", f"{layer}{UP}weight"]
            self._kept = key, merged_state({name: self._whole(name) for name in names}, self._scale)[key]
        return self._kept[1].reshape(-1)[start:stop]

    def _whole(self, name: str) -> Tensor:
        facts = self._weights.tensors[name]
        whole = torch.empty(facts.shape, dtype=facts.dtype)
        flat = whole.view(-1)
        for start, stop in blocks(math.prod(facts.shape)):
            flat[start:stop] = self._weights.read(name, start, stop)
        return whole
