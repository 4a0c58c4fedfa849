"""Which recorded token belongs to which sample, read off the arguments of a model's forward call.

A MoE layer sees a flat list of tokens. What they are is known one level up:

    a pack          `PackedBatch`, or `segment_lengths` of the language model alone: one row, split at document bounds;
                    its document of padding is left out, its pictures are known by `image_index`
    padded rows     `input_ids` or `inputs_embeds` (rows, tokens) and `attention_mask` (rows, tokens so far): masked
                    positions are left out, pictures are known by the config's image token
    a decode step   the same with a cache that already holds tokens: one more token for each row

No bounds are inferred from position ids.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mindvl.batch import PackedBatch
from mindvl.routing.sample import TokenKind


@dataclass(frozen=True)
class Labels:
    """What the caller says about the samples of one forward call; each field in sample order."""

    keys: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    lengths: Sequence[int] | None = None
    """Tokens of each sample, where the call holds one row of several samples."""
    kinds: np.ndarray | None = None
    """`TokenKind` of each token, in the shape of the call's token grid."""
    mask: np.ndarray | None = None
    """(rows, tokens), false at padding, where the call's own attention mask does not say it in two dimensions."""


@dataclass
class BatchRows:
    """The token grid of a forward call and the samples in it."""

    num_rows: int
    num_columns: int
    past_tokens: int
    """Tokens per row, padding included, that the cache held before the call."""
    mask: Tensor | None
    """(rows, columns), zero at padding; None when every token is real."""
    input_ids: Tensor | None
    lengths: tuple[int, ...] | None
    """Document lengths of a pack, which is one row; None for rows."""
    image_index: Tensor | None
    image_token_id: int | None
    labels: Labels = field(default_factory=Labels)
    cache: Any = None
    """The cache that the call continues or fills, where it was handed one."""

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.num_columns

    def kinds(self) -> np.ndarray:
        """`TokenKind` of every position, flat."""
        if self.labels.kinds is not None:
            kinds = np.asarray(self.labels.kinds, np.uint8).reshape(-1)
            if len(kinds) != self.num_tokens:
                raise ValueError(f"{len(kinds)} kinds were given for a call of {self.num_tokens} tokens")
            return kinds
        kinds = np.full(self.num_tokens, TokenKind.TEXT, np.uint8)
        if self.image_index is not None:
            kinds[self.image_index.cpu().numpy()] = TokenKind.PICTURE
        elif self.image_token_id is not None and self.input_ids is not None:
            kinds[(self.input_ids == self.image_token_id).reshape(-1).cpu().numpy()] = TokenKind.PICTURE
        return kinds

    def positions(self) -> list[np.ndarray]:
        """Flat positions of each sample's tokens, padding left out."""
        if self.lengths is not None:
            bounds = np.cumsum((0, *self.lengths))
            return [np.arange(start, stop) for start, stop in itertools.pairwise(bounds)]
        flat = np.arange(self.num_tokens).reshape(self.num_rows, self.num_columns)
        if self.mask is None:
            return list(flat)
        real = self.mask.cpu().numpy().astype(bool)
        return [row[chosen] for row, chosen in zip(flat, real, strict=True)]


def rows_of_call(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], *, image_token_id: int | None, labels: Labels
) -> BatchRows:
    """Read a forward call. Raises ValueError when it holds neither tokens nor a pack, or lengths that do not fit."""
    values = named_arguments(module, args, kwargs)
    pack = next((value for value in values.values() if isinstance(value, PackedBatch)), None)
    if pack is not None:
        return _rows_of_pack(pack, labels)
    ids, embeddings, past = values.get("input_ids"), values.get("inputs_embeds"), values.get("past_key_values")
    tokens = ids if isinstance(ids, Tensor) else embeddings
    if not isinstance(tokens, Tensor) or tokens.ndim < 2:
        raise ValueError(
            f"{type(module).__name__} was called without input_ids, inputs_embeds or a PackedBatch; "
            "give the recorder the module that gets them"
        )
    rows, columns = tokens.shape[:2]
    cached_tokens = _cached_tokens(past)
    lengths = labels.lengths if labels.lengths is not None else values.get("segment_lengths")
    mask = values.get("attention_mask") if labels.mask is None else torch.as_tensor(labels.mask)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        mask = mask[:, -columns:]
        if mask.shape != (rows, columns):
            raise ValueError(f"the mask is {tuple(mask.shape)}, tokens are {(rows, columns)}")
    elif mask is None or lengths is not None or cached_tokens:  # tokens that are written are never padding
        mask = None
    else:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask ({shape}) does not say which tokens are padding: give label(mask=...), (rows, tokens)"
        )
    if lengths is not None:
        if rows != 1 or sum(lengths) > columns:
            raise ValueError(f"lengths {tuple(lengths)} do not fit a call of {rows} rows of {columns} tokens")
        lengths, mask = tuple(lengths), None
    return BatchRows(
        rows,
        columns,
        cached_tokens,
        mask,
        ids if isinstance(ids, Tensor) and not ids.is_floating_point() else None,
        lengths,
        None,
        image_token_id,
        labels,
        past,
    )


def _cached_tokens(past: Any) -> int:
    """Tokens per row in a cache object, or in older models' tuples of (key, value) per layer."""
    if hasattr(past, "get_seq_length"):
        return int(past.get_seq_length())
    return past[0][0].shape[-2] if past else 0


def _rows_of_pack(pack: PackedBatch, labels: Labels) -> BatchRows:
    lengths: list[int] = []
    for length in pack.doc_lengths:  # documents of padding follow the real ones
        if sum(lengths) + length > pack.num_tokens:
            break
        lengths.append(length)
    labels = Labels(
        labels.keys if labels.keys is not None else pack.keys or None,
        labels.domains if labels.domains is not None else pack.sources or None,
        kinds=labels.kinds,
    )
    return BatchRows(1, len(pack.input_ids), 0, None, pack.input_ids, tuple(lengths), pack.image_index, None, labels)


@functools.cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    """Of a class's forward, `self` included. Kept, as a decode step is not much longer than reading it."""
    return inspect.signature(forward)


def named_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `module.forward` by name; those behind **kwargs under their own names."""
    signature = _signature(type(module).forward)
    try:
        bound = signature.bind_partial(module, *args, **kwargs).arguments
        bound.pop("self")
    except TypeError:  # the call itself will say what is wrong with it
        return dict(kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}.{number}": each for number, each in enumerate(value)}
        else:
            named[name] = value
    return named


def in_backward() -> bool:
    """Whether autograd is running on this thread: a forward call in there is a recomputation, never a new one."""
    return torch._C._current_graph_task_id() != -1
