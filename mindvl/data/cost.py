"""What a sample costs to train on, predicted before a picture is opened.

Four numbers describe a model: operations per token and per pair of tokens that attend to each other in the language
model, per patch and per pair of patches in the vision tower. A document of l tokens costs token * l + token_pair * l^2,
a picture of p patches patch * p + patch_pair * p^2; documents and pictures add up, so a pack costs the sum of its
samples. A page of 1,280 visual tokens costs a forward pass of 21 TFLOP in an 8B language model (16 GFLOP per token) and
7 TFLOP in Qwen2.5-VL's tower of 0.63B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CostModel:
    """Operations by what they are spent on; only their ratios matter to a plan."""

    token: float = 1.0
    token_pair: float = 0.0
    patch: float = 0.0
    patch_pair: float = 0.0

    def language(self, tokens: np.ndarray) -> np.ndarray:
        """Cost in the language model of documents of so many tokens."""
        length = tokens.astype(np.float64)
        return self.token * length + self.token_pair * length**2

    def vision(self, patches: np.ndarray) -> np.ndarray:
        """Cost in the vision tower of pictures of so many patches."""
        size = patches.astype(np.float64)
        return self.patch * size + self.patch_pair * size**2


def max_over_mean(costs: np.ndarray) -> float:
    """Mean over steps of the dearest rank's cost over the mean rank's; `costs` is (steps, ranks).

    A step takes as long as its slowest rank, so 1.02 means that 2 % of the machine waits.
    """
    mean = costs.mean(axis=1)
    busy = mean > 0
    return float((costs[busy].max(axis=1) / mean[busy]).mean()) if busy.any() else 1.0
