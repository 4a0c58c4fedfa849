"""What a router chose, as the metrics read it: whole numbers (samples, tokens, layers, k), in router order.

The slots of a token hold the ids of its k experts, the one with the largest gate weight first. Two tokens of a model
with 2 layers, 8 experts and k = 2:

    ids[0, :, 0] = [[3, 5],      layer 0: token 0 went to experts 3 and 5,
                    [5, 1]]               token 1 to experts 5 and 1
    ids[0, :, 1] = [[0, 2],      layer 1
                    [2, 0]]

Samples of unequal length come as a list of arrays (tokens, layers, k), or a recorded trace, which is one. A sample
without tokens is skipped: it has no window and asks for nothing.

Recorded traces say -1 in a slot that ran no expert (dropped for want of capacity, or skipped). Since -1 is also what
broken ids look like, it is an error unless `allow_dropped` is set; then such a slot asks for nothing.

A corpus may be larger than memory (a memory-mapped array, say). It is therefore read in chunks of whole samples, each
copied to int32 and checked once; sums of integers make any chunking give the same result.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit

RouterIds: TypeAlias = Any
"""A torch tensor or numpy array (samples, tokens, layers, k), or an iterable of them (tokens, layers, k)."""

CHUNK_IDS = 2**23
"""Ids held at once, 32 MB of int32; a single longer sample is held whole."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some neighbouring samples, laid end to end."""

    ids: np.ndarray
    """(tokens, layers, k) int32."""
    starts: np.ndarray
    """(samples + 1) int64: tokens of sample s are rows starts[s] to starts[s+1]."""
    first_sample: int
    has_dropped: bool
    """Whether any slot is -1."""

    @property
    def num_samples(self) -> int:
        return len(self.starts) - 1

    def part(self, begin: int, end: int) -> Chunk:
        """Tokens [begin, end) alone, as one piece."""
        return Chunk(self.ids[begin:end], np.array([0, end - begin], np.int64), self.first_sample, self.has_dropped)

    def requests(self, layer: int | None, num_experts: int) -> np.ndarray:
        """(tokens, k) ids of one layer, or (tokens, layers * k) of all with ids layer * num_experts + expert; or -1."""
        if layer is not None:
            return np.ascontiguousarray(self.ids[:, layer])
        tokens, layers, k = self.ids.shape
        pooled = self.ids + np.arange(layers, dtype=np.int32)[:, None] * num_experts
        if self.has_dropped:
            pooled[self.ids < 0] = -1
        return pooled.reshape(tokens, layers * k)

    def num_requests(self) -> np.ndarray:
        """(samples, layers) int64 slots that ran an expert."""
        tokens, layers, k = self.ids.shape
        if not self.has_dropped:
            return np.repeat(np.diff(self.starts)[:, None] * k, layers, axis=1)
        before = np.zeros((tokens + 1, layers), np.int64)
        np.cumsum((self.ids >= 0).sum(axis=2), axis=0, out=before[1:])
        return np.diff(before[self.starts], axis=0)


@dataclass(frozen=True, eq=False)
class Routing:
    """Checked access to the ids of a corpus."""

    samples: Any
    """An array (samples, tokens, layers, k) or a list of arrays (tokens, layers, k), as given."""
    num_experts: int
    layers: int
    k: int
    allow_dropped: bool

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def chunks(self) -> Iterator[Chunk]:
        """Samples in order, in chunks of about `CHUNK_IDS` ids. Raises ValueError for ids that no router could give."""
        first, waiting, size = 0, [], 0
        for number in range(self.num_samples):
            sample = self.samples[number]
            waiting.append(sample)
            size += sample.size if isinstance(sample, np.ndarray) else sample.numel()
            if size >= CHUNK_IDS or number == self.num_samples - 1:
                yield self._chunk(waiting, first)
                first, waiting, size = number + 1, [], 0

    def _chunk(self, samples: list[Any], first_sample: int) -> Chunk:
        arrays = [_as_numpy(sample) for sample in samples]
        starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
        lowest = -1 if self.allow_dropped else 0
        has_dropped = False
        for number, array in enumerate(arrays):
            # Compared before the copy to int32, in which 2**32 + 3 would look like expert 3.
            smallest, largest = array.min(initial=0), array.max(initial=0)
            has_dropped |= bool(smallest < 0)
            if smallest < lowest or largest >= self.num_experts:
                token, layer, slot = np.argwhere((array < lowest) | (array >= self.num_experts))[0].tolist()
                found = array[token, layer, slot]
                hint = "; where -1 says that no expert ran, set allow_dropped=True" if found == -1 else ""
                raise ValueError(
                    f"sample {first_sample + number}, token {token}, layer {layer} names expert {found}; with "
                    f"num_experts={self.num_experts} ids go from 0 to {self.num_experts - 1}{hint}"
                )
        ids = np.empty((int(starts[-1]), self.layers, self.k), np.int32)
        for number, array in enumerate(arrays):
            ids[starts[number] : starts[number + 1]] = array
        place = _first_repeat(ids, self.num_experts)
        if place >= 0:
            row, layer = divmod(place, self.layers)
            number = int(np.searchsorted(starts, row, side="right")) - 1
            raise ValueError(
                f"sample {first_sample + number}, token {row - starts[number]}, layer {layer} names an expert twice: "
                f"{ids[row, layer].tolist()}; a token's k experts are distinct"
            )
        return Chunk(ids, starts, first_sample, has_dropped)


def read_routing(ids: RouterIds, *, num_experts: int | None, allow_dropped: bool = False) -> Routing:
    """Checks the shape and kind of `ids` at once, their values when chunks are read.

    Raises:
        ValueError: for an unknown number of experts, floats (logits), axes that are missing, or samples whose number
            of layers or k differ.
    """
    if num_experts is None:
        raise ValueError("num_experts is None; it cannot be read off the ids, since an expert may never be chosen")
    if num_experts < 1:
        raise ValueError(f"num_experts is {num_experts}, it must be at least 1")
    if hasattr(ids, "shape"):
        _check_whole_numbers(ids, "ids")
        if len(ids.shape) != 4:
            raise ValueError(
                f"ids have {len(ids.shape)} axes, shape {tuple(ids.shape)}; expected 4: (samples, tokens, layers, k). "
                "One sample (tokens, layers, k) goes into a list"
            )
        layers, k = (int(size) for size in ids.shape[2:])
        samples = ids.detach().cpu() if hasattr(ids, "detach") else np.asarray(ids)
    else:
        samples = list(ids)
        if not samples:
            raise ValueError("ids is an empty list, which does not say how many layers and experts a token has")
        for number, sample in enumerate(samples):
            _check_sample(sample, samples[0], number)
        layers, k = (int(size) for size in samples[0].shape[1:])
    if layers < 1 or k < 1:
        raise ValueError(f"ids have {layers} layers and k={k}; both must be at least 1")
    if k > num_experts:
        raise ValueError(f"ids have k={k} experts a token, but num_experts={num_experts}")
    return Routing(samples, int(num_experts), layers, k, allow_dropped)


def _check_sample(sample: Any, first: Any, number: int) -> None:
    """Raises ValueError unless `sample` is (tokens, layers, k) with the layers and k of the first one."""
    if not hasattr(sample, "shape"):
        raise ValueError(f"sample {number} is a {type(sample).__name__}; expected an array (tokens, layers, k)")
    _check_whole_numbers(sample, f"sample {number}")
    if len(sample.shape) != 3:
        raise ValueError(f"sample {number} has shape {tuple(sample.shape)}; expected 3 axes (tokens, layers, k)")
    for name, axis in (("layers", 1), ("k", 2)):
        if sample.shape[axis] != first.shape[axis]:
            raise ValueError(
                f"sample {number} has {name}={sample.shape[axis]}, sample 0 has {name}={first.shape[axis]}; "
                "every token of a trace has the same"
            )


def _check_whole_numbers(array: Any, name: str) -> None:
    dtype = array.dtype
    whole = dtype.kind in "iu" if isinstance(dtype, np.dtype) else str(dtype).startswith(("torch.int", "torch.uint"))
    if not whole:
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} are {kind} of shape {tuple(array.shape)}, not whole numbers: if these are router logits or "
            "weights, take the ids that the router chose, or mindvl.routing.top_k_ids(logits, k=...)"
        )


def _as_numpy(sample: Any) -> np.ndarray:
    return sample.detach().cpu().numpy() if hasattr(sample, "detach") else np.asarray(sample)


@njit(cache=True, nogil=True)
@typing.no_type_check
def _first_repeat(ids, num_experts):
    """Number of the first (token, layer) that names an expert twice, counted token by token; -1 when there is none."""
    tokens, layers, k = ids.shape
    seen = np.full(num_experts, -1, np.int64)
    for token in range(tokens):
        for layer in range(layers):
            place = token * layers + layer
            for slot in range(k):
                expert = ids[token, layer, slot]
                if expert < 0:
                    continue
                if seen[expert] == place:
                    return place
                seen[expert] = place
    return -1
