"""Cross-entropy of the supervised positions only, summed.

Most positions of a pack are picture tokens and questions, which nobody predicts. The language-model head is applied
to the supervised positions alone, so logits exist for perhaps a tenth of the pack. The sum is divided once, by the
supervised tokens of the whole optimizer step (`mindvl.phases.base`), never by those of one pack.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mindvl.ops.precision import at_least_fp32


def summed_cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    head: nn.Module,
    supervised_index: Int[Tensor, " supervised"],
    targets: Int[Tensor, " supervised"],
) -> Float[Tensor, ""]:
    """Sum over supervised positions of -log p(target), in fp32; exactly 0 with zero gradients when there are none."""
    logits = head(hidden.index_select(0, supervised_index))
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(at_least_fp32(logits), targets, reduction="sum")
