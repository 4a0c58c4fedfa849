"""Activation checkpointing: what a unit (a decoder layer, a block of the tower) keeps for its backward pass.

    none        all that autograd asks for: the most memory, no arithmetic twice
    selective   results of matrix products, attention and exchanges between ranks; the cheap rest is computed again
    full        the unit's input alone; its forward pass runs again in backward

torch's own selective contexts ask that both passes run the very same operators. Units that hold sharded experts do not:
FSDP2 gathers those ahead of time in forward and within the unit in backward. So results are kept here by operator, in
the order in which they came, and all else is left alone.
"""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "selective", "full"]

_DEAR = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::_grouped_mm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_flash_attention_forward",
    "mkldnn::_linear_pointwise",
    "npu::npu_fusion_attention",
    "npu::npu_grouped_matmul",
    "torch_attn::_varlen_attn",
    "_c10d_functional::all_to_all_single",
}
"""Operators whose results selective checkpointing keeps."""


def recompute(units: Iterable[nn.Module], how: Recompute) -> None:
    """Let each unit forget its activations and compute them again. Non-reentrant, so frozen inputs do no harm."""
    if how == "none":
        return
    selective = {"context_fn": _keep_and_use} if how == "selective" else {}
    for unit in units:
        # The forward method, not the call: FSDP2 gathers the unit's parameters around it, once for both passes.
        unit.forward = functools.partial(  # type: ignore[method-assign]
            checkpoint, unit.forward, use_reentrant=False, **selective
        )


def _keep_and_use() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a unit's forward pass and of its second one."""
    kept: dict[Any, deque] = defaultdict(deque)
    return _Keep(kept), _Use(kept)


class _Keep(TorchDispatchMode):
    def __init__(self, kept: dict[Any, deque]):
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if operator.name().split(".")[0] in _DEAR:
            self.kept[operator].append(tree_map_only(Tensor, torch.Tensor.detach, result))
        return result


class _Use(TorchDispatchMode):
    def __init__(self, kept: dict[Any, deque]):
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kept = self.kept.get(operator)
        return kept.popleft() if kept else operator(*args, **(kwargs or {}))
