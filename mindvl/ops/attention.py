"""Packed attention: many short sequences side by side, none of which sees another.

`packed_attention` is the only attention call site of a training step, for the vision tower (windows and whole
pictures, bidirectional) and for the language model (documents, causal). Segment lengths arrive as Python ints. Which
kernel does it is the operator table's choice (`mindvl.ops.table`); those of CUDA and NPUs are in `mindvl.ops.backends`.

On a CPU, a call per segment is nine times faster than one call with a block mask (16 segments, 4096 tokens: 35 ms
against 304 ms), because the mask makes the kernel visit every pair. Many short segments then cost a call each, so
segments share calls: those of one length form a batch, and causal ones of like length too, padded on the right, where
no query can see the padding. Rows are gathered into that order once, inside one autograd function.

    lengths (64, 16, 64)      bidirectional: calls of 2 x 64 and 1 x 16 rows
    lengths (70, 64, 20)      causal: calls of 2 x 70 rows (6 of padding) and 1 x 20
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mindvl.ops.exchange import heads_for_rows, rows_for_heads, split_of
from mindvl.ops.precision import at_least_fp32, no_autocast
from mindvl.ops.table import choose


def packed_attention(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads value_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads value_dim"]:
    """Attention inside each segment of a pack and never across one.

    `lengths` are the segments' lengths in tokens and must add up to `tokens`; where they are `SplitLengths`, `tokens`
    are this rank's share of them (`mindvl.ops.exchange`). With fewer key/value heads than query heads, each key head
    serves a group of query heads. Values may be narrower than keys.
    """
    # Under autocast, rotary embeddings may leave queries and keys in fp32 while values are in the lower precision.
    query, key = query.to(value.dtype), key.to(value.dtype)
    split = split_of(lengths)
    if split is not None:
        query, key, value = heads_for_rows(query, key, value, split)
    if sum(lengths) != query.shape[0]:
        raise ValueError(f"segment lengths add up to {sum(lengths)} tokens, but the pack has {query.shape[0]}")
    value_dim = value.shape[-1]
    narrower = query.shape[-1] - value_dim
    if narrower:  # multi-head latent attention (DeepSeek); zero columns leave the result unchanged
        value = F.pad(value, (0, narrower))
    output = choose("packed_attention", value)(query, key, value, tuple(lengths), causal=causal, scale=scale)
    if narrower:
        output = output[..., :value_dim]
    return output if split is None else rows_for_heads(output, split)


def repeat_heads(states: Float[Tensor, "tokens kv_heads head_dim"], heads: int) -> Tensor:
    """Key or value heads once for each query head that they serve."""
    groups = heads // states.shape[1]
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def packed_attention_reference(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads head_dim"]:
    """The definition: softmax attention under an explicit block-diagonal mask, in plain fp32 operations."""
    key, value = (repeat_heads(states, query.shape[1]) for states in (key, value))
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    allowed = segment[:, None] == segment[None, :]
    if causal:
        allowed = allowed.tril()
    with no_autocast(query):
        scores = torch.einsum("qhd,khd->hqk", at_least_fp32(query), at_least_fp32(key)) * scale
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
        return torch.einsum("hqk,khd->qhd", weights, at_least_fp32(value)).to(query.dtype)


def per_segment_attention(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads head_dim"]:
    """PyTorch's scaled_dot_product_attention, a call per segment: slow with many windows, and runs anywhere."""
    key, value = (repeat_heads(states, query.shape[1]) for states in (key, value))
    outputs = []
    for segment in zip(*(states.split(list(lengths)) for states in (query, key, value)), strict=True):
        q, k, v = (part.transpose(0, 1)[None] for part in segment)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


def why_not_segments(device: str, dtype: torch.dtype) -> str | None:
    """Its kernel exists on CPUs alone."""
    return None if device == "cpu" else f"its kernel runs on the cpu, not on {device}"


def segments_attention(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "tokens heads head_dim"]:
    """PyTorch's CPU flash kernel, a call per group of segments of like length."""
    key, value = (repeat_heads(states, query.shape[1]) for states in (key, value))
    # The kernel's backward pass is several times slower in bf16 than in fp32 on short segments.
    fp32 = (at_least_fp32(states) for states in (query, key, value))
    layout = _grouped_layout(tuple(lengths), causal)
    return _GroupedAttention.apply(*fp32, layout, causal, scale).to(value.dtype)


class _Layout(NamedTuple):
    """Segments reordered into groups that share a call, padded to the longest of the group."""

    groups: tuple[tuple[int, int], ...]
    """(segments, padded length) of each call, in order."""
    gather: Tensor | None
    """(padded rows) which token each row holds; None when tokens already lie in this order."""
    restore: Tensor | None
    """(tokens) in which row each token lies."""
    padding: Tensor | None
    """(padding rows) rows that repeat a token only to fill; None when there are none."""


_MAX_PADDING_RATIO = 0.2


@lru_cache(maxsize=64)
def _grouped_layout(lengths: tuple[int, ...], causal: bool) -> _Layout:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = sorted((number for number, length in enumerate(lengths) if length), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for number in order:
        longest = lengths[groups[-1][0]] if groups else 0
        shortest_allowed = longest * (1 - _MAX_PADDING_RATIO) if causal else longest
        if groups and lengths[number] >= shortest_allowed:
            groups[-1].append(number)
        else:
            groups.append([number])
    gather, real = [], []
    for group in groups:
        longest = lengths[group[0]]
        for number in group:
            within = np.arange(longest)
            gather.append(starts[number] + np.minimum(within, lengths[number] - 1))
            real.append(within < lengths[number])
    shapes = tuple((len(group), lengths[group[0]]) for group in groups)
    rows = np.concatenate(gather) if gather else np.zeros(0, np.int64)
    is_real = np.concatenate(real) if real else np.zeros(0, bool)
    if np.array_equal(rows, np.arange(starts[-1])):
        return _Layout(shapes, None, None, None)
    restore = np.empty(starts[-1], np.int64)
    restore[rows[is_real]] = np.flatnonzero(is_real)
    padding = None if is_real.all() else torch.from_numpy(np.flatnonzero(~is_real))
    return _Layout(shapes, torch.from_numpy(rows), torch.from_numpy(restore), padding)


def _calls(layout: _Layout, *tensors: Tensor):
    """Per call, its rows of each tensor as (segments, heads, length, head_dim), without a copy."""
    start = 0
    for count, length in layout.groups:
        rows = slice(start, start + count * length)
        yield rows, tuple(tensor[rows].unflatten(0, (count, length)).transpose(1, 2) for tensor in tensors)
        start = rows.stop


class _GroupedAttention(torch.autograd.Function):
    """PyTorch's CPU flash kernel, a call per group of segments."""

    @staticmethod
    def forward(ctx, query, key, value, layout, causal, scale):
        if layout.gather is not None:
            query, key, value = (states.index_select(0, layout.gather) for states in (query, key, value))
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        statistics = []
        for rows, batch in _calls(layout, query, key, value):
            attended, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *batch, 0.0, causal, scale=scale
            )
            output[rows] = attended.transpose(1, 2).flatten(0, 1)
            statistics.append(logsumexp)
        ctx.save_for_backward(query, key, value, output, *statistics)
        ctx.settings = layout, causal, scale
        return output if layout.restore is None else output.index_select(0, layout.restore)

    @staticmethod
    def backward(ctx, grad_output):
        query, key, value, output, *statistics = ctx.saved_tensors
        layout, causal, scale = ctx.settings
        if layout.gather is not None:
            grad_output = grad_output.index_select(0, layout.gather)
        if layout.padding is not None:
            grad_output.index_fill_(0, layout.padding, 0.0)
        grads = [torch.empty_like(states, memory_format=torch.contiguous_format) for states in (query, key, value)]
        calls = _calls(layout, grad_output, query, key, value, output)
        for (rows, batch), logsumexp in zip(calls, statistics, strict=True):
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *batch, logsumexp, 0.0, causal, scale=scale
            )
            for grad, part in zip(grads, parts, strict=True):
                grad[rows] = part.transpose(1, 2).flatten(0, 1)
        if layout.restore is not None:
            grads = [grad.index_select(0, layout.restore) for grad in grads]
        return *grads, None, None, None
