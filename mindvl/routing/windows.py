"""How often an expert is active inside a window of m tokens: the one histogram that segment routing is made of.

A window is m neighbouring tokens of one sample; every start counts (stride 1), so a sample of T tokens has T - m + 1
windows and none when it is shorter than m. In a window, f is the number of its tokens that chose the expert. Over a
corpus, counts[j] says how many windows have f = j:

    one expert, 6 tokens     1 1 0 1 0 0          (1: the token chose it)
    windows of 3             [1 1 0] f = 2
                               [1 0 1] f = 2
                                 [0 1 0] f = 1
                                   [1 0 0] f = 1
    counts                   [0, 2, 2, 0]          j = 0, 1, 2, 3

Such counts add up over samples, chunks and ranks, whatever the length of the corpus: 8 bytes x layers x experts x
(m + 1) is all the state there is.

A window's f differs from its neighbour's only for experts of the token that leaves and of the one that comes. So an
expert's count is booked when its f changes, for all windows since the last change at once: O(k) per token, not O(E).
"""

from __future__ import annotations

import typing
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from mindvl.routing.cores import on_all_cores
from mindvl.routing.inputs import RouterIds, read_routing


@dataclass(frozen=True, eq=False)
class WindowHistogram:
    """Windows of one length, counted by how many of their tokens chose an expert."""

    counts: np.ndarray
    """(domains, layers, experts, m + 1) int64; without domains the first axis has size 1."""
    segment_length: int
    domains: tuple[Hashable, ...] | None
    """Labels of the first axis, sorted; None when the corpus was counted as a whole."""

    @property
    def num_windows(self) -> np.ndarray:
        """(domains) int64: the same for every layer and expert, since all see the same tokens."""
        return self.counts[:, 0, 0].sum(axis=-1)

    def pooled(self) -> WindowHistogram:
        """All domains as one."""
        return WindowHistogram(self.counts.sum(axis=0, keepdims=True), self.segment_length, None)


def window_histograms(
    ids: RouterIds,
    *,
    num_experts: int | None,
    segment_lengths: Sequence[int],
    domains: Sequence[Hashable] | None = None,
    position: int | None = None,
    allow_dropped: bool = False,
) -> dict[int, WindowHistogram]:
    """Histograms of several segment lengths m, from one reading of the ids.

    Args:
        ids: see `mindvl.routing.inputs`; (samples, tokens, layers, k) or a list of (tokens, layers, k).
        segment_lengths: tokens per window, each at least 1.
        domains: a label per sample, such as "code" or "arxiv"; counted apart.
        position: count only the window that starts at this token of each sample (0: the first).
        allow_dropped: take -1 for a slot that ran no expert.

    Raises:
        ValueError: for a length below 1, labels that are not one per sample, or ids that no router could give.
    """
    for length in segment_lengths:
        if length < 1:
            raise ValueError(f"the segment length is {length} tokens, it must be at least 1")
    if position is not None and position < 0:
        raise ValueError(f"position is {position}; windows start at token 0 or later")
    routing = read_routing(ids, num_experts=num_experts, allow_dropped=allow_dropped)
    names, labels = label_samples(domains, routing.num_samples)
    shape = (1 if names is None else len(names), routing.layers, routing.num_experts)
    counts = {length: np.zeros((*shape, length + 1), np.int64) for length in segment_lengths}
    first, stop = (0, np.iinfo(np.int64).max) if position is None else (position, position + 1)
    for chunk in routing.chunks():
        chunk_labels = labels[chunk.first_sample : chunk.first_sample + chunk.num_samples]

        def tally(layer: int, chunk=chunk, chunk_labels=chunk_labels) -> None:
            requests = chunk.requests(layer, routing.num_experts)
            for length, into in counts.items():
                _tally_windows(requests, chunk.starts, chunk_labels, length, first, stop, into[:, layer])

        on_all_cores(tally, range(routing.layers))
    return {length: WindowHistogram(into, length, names) for length, into in counts.items()}


def label_samples(
    domains: Sequence[Hashable] | None, num_samples: int
) -> tuple[tuple[Hashable, ...] | None, np.ndarray]:
    """The distinct labels, sorted, and each sample's place among them, (samples) int64."""
    if domains is None:
        return None, np.zeros(num_samples, np.int64)
    if len(domains) != num_samples:
        raise ValueError(f"there are {len(domains)} domain labels for {num_samples} samples; give one per sample")
    given = domains.tolist() if hasattr(domains, "tolist") else list(domains)
    names = tuple(sorted(set(given)))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in given], np.int64)


@njit(cache=True, nogil=True)
@typing.no_type_check
def _tally_windows(requests, starts, labels, length, first, stop, counts):
    """Adds the windows of all samples whose start lies in [first, stop) to counts (domains, experts, length + 1)."""
    num_experts = counts.shape[1]
    k = requests.shape[1]
    active = np.zeros(num_experts, np.int64)  # f of the current window
    since = np.zeros(num_experts, np.int64)  # start of the first window with this f
    for sample in range(len(starts) - 1):
        begin = starts[sample] + first
        end = starts[sample + 1] - length + 1  # one past the last start
        if stop < np.iinfo(np.int64).max:
            end = min(end, starts[sample] + stop)
        if begin >= end:
            continue
        into = counts[labels[sample]]
        active[:] = 0
        since[:] = begin
        for token in range(begin, begin + length):
            for slot in range(k):
                if requests[token, slot] >= 0:
                    active[requests[token, slot]] += 1
        for start in range(begin + 1, end):
            for slot in range(k):
                expert = requests[start - 1, slot]
                if expert < 0:
                    continue
                into[expert, active[expert]] += start - since[expert]
                since[expert] = start
                active[expert] -= 1
            for slot in range(k):
                expert = requests[start + length - 1, slot]
                if expert < 0:
                    continue
                into[expert, active[expert]] += start - since[expert]
                since[expert] = start
                active[expert] += 1
        for expert in range(num_experts):
            into[expert, active[expert]] += end - since[expert]
