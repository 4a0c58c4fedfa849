"""The attention function that the language model and the vision tower both call.

Registered with transformers under the name "mindvl_packed", it serves two callers. A training step hands over
`segment_lengths`: the single row of tokens is a pack, and attention stays inside each segment. Generation hands over
none: rows are padded sequences with a cache, and transformers' own SDPA path with its mask does the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mindvl.ops.attention import packed_attention

PACKED = "mindvl_packed"


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segment_lengths: Sequence[int] | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of (batch, heads, tokens, head_dim) states; returns (batch, tokens, heads, head_dim) and no weights."""
    if segment_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
        )
    if kwargs.get("sliding_window") is not None:
        raise ValueError("packed attention has no sliding window; set use_sliding_window=false in the language config")
    if query.shape[0] != 1:
        raise ValueError(f"a pack is one row of tokens, got a batch of {query.shape[0]} rows with segment lengths")
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return packed_attention(query, key, value, segment_lengths, causal=causal, scale=scaling)[None], None


def _packed_mask(q_length: int, kv_length: int, attention_mask: Tensor | None = None, q_offset: int = 0, **kwargs):
    """No mask for a pack, whose bounds travel as `segment_lengths`; transformers' own mask for padded rows."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, q_offset=q_offset, **kwargs)


def register_packed_attention() -> str:
    """Make the function known to transformers, once per process, and return its name."""
    AttentionInterface.register(PACKED, packed_attention_forward)
    AttentionMaskInterface.register(PACKED, _packed_mask)
    return PACKED
