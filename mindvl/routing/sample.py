"""The words of recorded routing: a sample's expert ids, what its tokens are, and what all samples of a trace share.

A toy sample: three tokens through a model with two MoE layers, two experts of eight per token, router order (the
expert with the largest weight first):

    ids[0] = [[5, 1], [0, 3]]     token 0: experts 5 and 1 in the first MoE layer, 0 and 3 in the second
    ids[1] = [[5, 2], [0, 3]]
    ids[2] = [[2, -1], [7, 4]]    -1: the second choice of token 2 was dropped, its expert was full

-1 (`DROPPED`) always means "this slot ran no expert"; the expert that it would have been is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np

DROPPED = -1
"""The id in a slot that ran no expert: its expert was full, the token was padding inside the layer, or it skipped."""

KindName = Literal["text", "picture", "generated"]


class TokenKind(IntEnum):
    """What a token is. Stored as one byte per token."""

    TEXT = 0
    """Read by the model: a prompt, or teacher-forced text."""
    PICTURE = 1
    """A visual token."""
    GENERATED = 2
    """Written by the model itself, one decode step each."""


def id_dtype(num_experts: int) -> np.dtype:
    """The smallest of int16 and int32 that holds ids of `num_experts` experts and -1; little endian, as on disk."""
    return np.dtype("<i2") if num_experts <= 2**15 else np.dtype("<i4")


@dataclass(frozen=True)
class TraceMeta:
    """What all samples of a trace have in common."""

    model: str
    num_experts: int
    """Routed experts per layer; shared experts have no id."""
    layers: tuple[str, ...]
    """MoE layers in the order of the model, by module name; dense layers in between are not listed."""
    k: int
    """Slots per token and layer."""
    shared_experts: int = 0
    """Experts beside the routed ones that every token uses."""
    part: str = "model"
    """"encoder" or "decoder" of a sequence-to-sequence model, which are two traces; "model" otherwise."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.num_experts:
            raise ValueError(f"{self.model}: k is {self.k}, but a layer has {self.num_experts} experts")
        if not self.layers:
            raise ValueError(f"{self.model}: a trace of no layer")


@dataclass(frozen=True)
class RoutingSample:
    """Experts of one sequence of tokens."""

    ids: np.ndarray
    """(tokens, layers, k), router order, -1 where no expert ran."""
    kinds: np.ndarray
    """(tokens,) uint8 of `TokenKind`."""
    key: str = ""
    domain: str = ""
    weights: np.ndarray | None = None
    """(tokens, layers, k) float32: what the experts' outputs were multiplied by; None when not asked for."""

    def __len__(self) -> int:
        return len(self.ids)


class Routings:
    """Samples in order, whether in memory (`Recording`) or on disk (`Trace`). Iterating gives arrays of ids."""

    meta: TraceMeta

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, number: int) -> RoutingSample:
        """Sample `number`, from 0."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[np.ndarray]:
        """The ids of each sample, (tokens, layers, k): a ragged list, which the metrics of this package take."""
        return (self.sample(number).ids for number in range(len(self)))

    @property
    def domains(self) -> list[str]:
        """The domain of each sample, in order; empty strings where none was given."""
        return [self.sample(number).domain for number in range(len(self))]

    def select(
        self, *, kind: KindName | None = None, domain: str | None = None, join: bool = False
    ) -> Iterator[np.ndarray]:
        """Arrays of ids of one kind of token and/or one domain.

        By default each run of consecutive tokens of the kind is an array of its own, since windows and caches need
        true neighbours: a picture between two sentences must not make them adjacent. With `join`, the tokens of a
        sample are laid end to end, and samples without any give an empty array.
        """
        wanted = None if kind is None else TokenKind[kind.upper()]
        for number in range(len(self)):
            sample = self.sample(number)
            if domain is not None and sample.domain != domain:
                continue
            if wanted is None:
                yield sample.ids
                continue
            chosen = sample.kinds == wanted
            if join:
                yield sample.ids[chosen]
            else:
                edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
                yield from (sample.ids[start:stop] for start, stop in edges.reshape(-1, 2))

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """All samples as one array (samples, tokens, layers, k), padded with -1 at the end, and their lengths."""
        lengths = np.array([len(ids) for ids in self], np.int64)
        shape = (len(self), int(lengths.max(initial=0)), len(self.meta.layers), self.meta.k)
        padded = np.full(shape, DROPPED, id_dtype(self.meta.num_experts))
        for row, ids in zip(padded, self, strict=True):
            row[: len(ids)] = ids
        return padded, lengths


@dataclass(frozen=True)
class Recording(Routings):
    """Samples in memory."""

    meta: TraceMeta
    samples: Sequence[RoutingSample] = field(repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, number: int) -> RoutingSample:
        return self.samples[number]


def checked(samples: Iterable[RoutingSample], meta: TraceMeta) -> Iterator[RoutingSample]:
    """Samples whose arrays fit `meta`, ids in its dtype. Raises ValueError for the first that does not, by its key."""
    for number, sample in enumerate(samples):
        name = f"sample {sample.key or number}"
        ids, kinds, weights = np.asarray(sample.ids), np.asarray(sample.kinds), sample.weights
        if ids.ndim != 3 or ids.shape[1:] != (len(meta.layers), meta.k):
            raise ValueError(
                f"{name} has ids of shape {ids.shape}, the trace of {meta.model} has {len(meta.layers)} layers "
                f"and k = {meta.k}"
            )
        if ids.dtype.kind not in "iu":
            raise ValueError(f"{name} has ids of type {ids.dtype}, expert ids are integers")
        if len(kinds) != len(ids):
            raise ValueError(f"{name} has {len(ids)} tokens, but {len(kinds)} kinds")
        if weights is not None and weights.shape != ids.shape:
            raise ValueError(f"{name} has weights of shape {weights.shape}, ids of shape {ids.shape}")
        if ids.size and not (ids.min() >= DROPPED and ids.max() < meta.num_experts):
            raise ValueError(
                f"{name} has expert ids from {ids.min()} to {ids.max()}, {meta.model} has experts 0 to "
                f"{meta.num_experts - 1}, and -1 where none ran"
            )
        ids = ids.astype(id_dtype(meta.num_experts), copy=False)
        kinds = kinds.astype(np.uint8, copy=False)
        yield RoutingSample(ids, kinds, sample.key, sample.domain, weights)
