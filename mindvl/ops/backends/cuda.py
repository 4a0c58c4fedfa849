"""Entries for CUDA: variable-length flash attention, and when PyTorch's grouped products exist.

`torch.nn.attention.varlen` takes a pack as it is, (tokens, heads, head_dim) with the bounds of its segments, so windows
and documents of any length are one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mindvl.ops.attention import repeat_heads

_MIN_CAPABILITY = (8, 0)
"""Ampere: flash attention and grouped products are compiled for it and later."""
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 8


def why_not_varlen(device: str, dtype: torch.dtype) -> str | None:
    """Whether flash attention takes such tensors here."""
    if device != "cuda":
        return f"it takes cuda tensors, not {device}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash attention multiplies bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    missing = {"scale", "window_size"} - _varlen_parameters()
    if missing:
        return f"varlen_attn of torch {torch.__version__} has no {' and '.join(sorted(missing))}"
    return _why_not_this_gpu()


def why_not_grouped_mm(device: str, dtype: torch.dtype) -> str | None:
    """Whether PyTorch multiplies groups of rows on this device."""
    if not (hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")):
        return f"torch {torch.__version__} has no grouped_mm"
    if device == "cuda":
        return _why_not_this_gpu()
    return None if device in ("cpu", "meta") else f"grouped_mm has no kernel for {device}"


def _why_not_this_gpu() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device can be used"
    capability = torch.cuda.get_device_capability()
    if capability < _MIN_CAPABILITY:
        return "it needs compute capability 8.0, this GPU has {}.{}".format(*capability)
    return None


@lru_cache(maxsize=1)
def _varlen_parameters() -> frozenset[str]:
    """What this PyTorch's varlen_attn can be told; nothing where it has none."""
    try:
        varlen = import_module("torch.nn.attention.varlen")
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen.varlen_attn).parameters)


@lru_cache(maxsize=16)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Cumulative lengths from 0, on the device; all layers of a step ask for the same two."""
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return bounds.to(device, non_blocking=True)


def varlen_attention(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads head_dim"]:
    """One call for the pack. Raises ValueError for heads of more than 256 channels."""
    head_dim, heads = query.shape[-1], query.shape[1]
    if head_dim > _MAX_HEAD_DIM:
        raise ValueError(
            f"flash attention takes heads of at most {_MAX_HEAD_DIM} channels, these have {head_dim}; "
            "choose packed_attention=per_segment"
        )
    lengths = tuple(length for length in lengths if length)
    if not lengths:
        return query + 0 * (key.sum() + value.sum())
    options = {}
    if key.shape[1] != heads:
        if "enable_gqa" in _varlen_parameters():
            options["enable_gqa"] = True
        else:
            key, value = repeat_heads(key, heads), repeat_heads(value, heads)
    padding = -head_dim % _HEAD_DIM_STEP
    if padding:  # zero columns change neither scores nor the columns of the result that are kept
        query, key, value = (F.pad(states, (0, padding)) for states in (query, key, value))
    varlen = import_module("torch.nn.attention.varlen")
    bounds, longest = _bounds(lengths, query.device), max(lengths)
    window = (-1, 0) if causal else (-1, -1)
    output = varlen.varlen_attn(
        query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=window, **options
    )
    return output[..., :head_dim]
